"""Pictures of what a model looks at, keeps, imitates and gets wrong, as matplotlib figures.

`vitrellis show` writes them as PNG files. In a notebook, a figure is shown where it is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from vitrellis.analysis.class_attention import (
    attention_rollout,
    class_attention,
    head_token_attention,
)
from vitrellis.analysis.guided_maps import GuidedPair, colour_basis, colours, explained
from vitrellis.analysis.kept_tokens import LEFT_BEHIND, KeptTokens, kept_tokens
from vitrellis.analysis.mistakes import most_confident_mistakes
from vitrellis.errors import UsageError
from vitrellis.report.image_grid import (
    FAINT,
    RIGHT,
    WRONG,
    ImageGrid,
    as_seen,
    cell_for,
    shorten,
    to_numpy,
)
from vitrellis.runs.exported import Trained

_DIMMED, _GREY = 0.8, 0.62
"""The share of grey that is mixed into patches that are left behind, and its level: one by which
both white and black ones are seen to be dimmed."""
_HEAT = colormaps["inferno"].with_extremes(bad="#e4e4e4")


def draw_tokens(
    trained: Trained,
    images: Sequence[Tensor],
    *,
    keep_rates: Sequence[float] = (),
    layers: Sequence[int] = (),
    names: Sequence[str] = (),
    label: str = "",
) -> Figure:
    """The patches that are kept, layer by layer, for several keep rates; the others are dimmed.

    Patches that are merged have the mean colour of them all.

    Args:
        trained: A model that prunes, or any plain ViT or DHVT, which is pruned here as EViT would.
        images: uint8 `(C, H, W)` of any sizes.
        keep_rates: As for `vitrellis.analysis.kept_tokens.kept_tokens`, and so are the layers.
        layers: The layers that leave tokens behind.
        names: The names of the images.
        label: The name of the run.

    Raises:
        UsageError: If tokens cannot be left out of the model, or a rate or a layer does not fit.
    """
    try:
        found = kept_tokens(
            trained.model, trained.architecture, _input(trained, images), keep_rates, layers
        )
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{trained.architecture}: {error}") from error
    firsts = [1 + sum(len(kept.tokens) for kept in found[:number]) for number in range(len(found))]
    how = "those that the class token attends to most"
    if found[0].merges:
        how = "those that are alike, shown in their mean colour"
    grid = ImageGrid(
        len(images),
        firsts[-1] + len(found[-1].tokens),
        title="Which patches are merged" if found[0].merges else "Which patches are kept",
        subtitle=f"{_label(trained, label)}: {how}.",
        cell=cell_for(trained.preprocessing),
        gaps=dict.fromkeys(firsts, 0.18),
        row_labels=names,
        heading_lines=3,
    )
    for row, image in enumerate(images):
        picture = as_seen(image, trained.preprocessing)
        grid.image(row, 0, picture)
        for first, kept in zip(firsts, found, strict=True):
            for column, tokens in enumerate(kept.tokens, start=first):
                grid.image(row, column, _dimmed(picture, np.asarray(tokens[row].cpu())))
    grid.heading(0, "image")
    for first, kept in zip(firsts, found, strict=True):
        grid.group(first, first + len(kept.tokens) - 1, _rate_in_words(kept), line=2)
        for column, (layer, tokens) in enumerate(
            zip(kept.layers, kept.tokens, strict=False), start=first
        ):
            left = len(tokens[0].unique()) - bool((tokens[0] == LEFT_BEHIND).any())
            grid.heading(column, f"after block {layer}", line=1)
            grid.heading(column, f"{left} of {tokens[0].numel()}")
    return grid.figure


def _rate_in_words(kept: KeptTokens) -> str:
    if not kept.layers:
        return "all are kept"
    return "its own keep rates" if kept.keep_rate is None else f"keep rate {kept.keep_rate:g}"


def _dimmed(
    picture: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """A picture `(h, w, 3)`, grey where patches are gone, of one colour where they are merged."""
    height, width = picture.shape[:2]
    rows = np.arange(height) * tokens.shape[0] // height
    columns = np.arange(width) * tokens.shape[1] // width
    token = tokens[rows][:, columns]
    grey = picture.mean(axis=2, keepdims=True)
    dimmed = _DIMMED * _GREY + (1 - _DIMMED) * grey
    shown = np.where((token == LEFT_BEHIND)[..., None], dimmed, picture)
    numbers, counts = np.unique(tokens[tokens != LEFT_BEHIND], return_counts=True)
    for number in numbers[counts > 1]:
        inside = token == number
        shown[inside] = picture[inside].mean(axis=0)
    return shown


def draw_attention(
    trained: Trained,
    images: Sequence[Tensor],
    *,
    of: Literal["class", "head"] = "class",
    names: Sequence[str] = (),
    label: str = "",
) -> Figure:
    """The attention of the class token to the patches, block by block, and attention rollout.

    Args:
        trained: A transformer.
        images: uint8 `(C, H, W)` of any sizes.
        of: "class" shows the class token, averaged over the heads; "head" shows DHVT's head tokens,
            averaged over all of them.
        names: The names of the images.
        label: The name of the run.

    Raises:
        UsageError: If the attention cannot be seen.
    """
    seen = _input(trained, images)
    blocks = [maps.mean(dim=1) for maps in _attention_of(trained, seen, of)]
    rollout = attention_rollout(trained.model, seen) if of == "class" and _same(blocks) else None
    columns = 1 + len(blocks) + (rollout is not None)
    grid = ImageGrid(
        len(images),
        columns,
        title=f"What {_WHOSE[of]} to",
        subtitle=f"{_label(trained, label)}, mean over heads. {_SCALE}",
        cell=cell_for(trained.preprocessing),
        gaps={1: 0.18} | ({} if rollout is None else {columns - 1: 0.18}),
        row_labels=names,
    )
    grid.heading(0, "image")
    for number in range(len(blocks)):
        grid.heading(1 + number, f"block {number}")
    for row, image in enumerate(images):
        grid.image(row, 0, as_seen(image, trained.preprocessing))
        for number, maps in enumerate(blocks):
            _heat(grid, row, 1 + number, maps[row])
        if rollout is not None:
            _heat(grid, row, columns - 1, rollout[row])
    if rollout is not None:
        grid.heading(columns - 1, "rollout")
    return grid.figure


_SCALE = "Bright is more, on a scale of its own for each map."
_WHOSE = {"class": "the class token attends", "head": "the head tokens attend"}


def draw_attention_heads(
    trained: Trained,
    image: Tensor,
    *,
    of: Literal["class", "head"] = "class",
    name: str = "",
    label: str = "",
) -> Figure:
    """The attention of each block and head for one image.

    Args:
        trained: A transformer.
        image: uint8 `(C, H, W)`.
        of: "class" shows the class token's attention in each head; "head" shows that of each of
            DHVT's head tokens, averaged over heads.
        name: The name of the image.
        label: The name of the run.

    Raises:
        UsageError: If the attention cannot be seen.
    """
    seen = _input(trained, [image])
    blocks = _attention_of(trained, seen, of)
    most = max(maps.shape[1] for maps in blocks)
    what = "head" if of == "class" else "head token"
    grid = ImageGrid(
        len(blocks),
        1 + most,
        title=f"What {_WHOSE[of]} to in each head" if of == "class" else f"What {_WHOSE[of]} to",
        subtitle=f"{_label(trained, label)}. {_SCALE}",
        cell=cell_for(trained.preprocessing),
        gaps={1: 0.18 + 0.65},
    )
    grid.image(0, 0, as_seen(image, trained.preprocessing))
    grid.heading(0, shorten(name) if name else "image")
    if of == "class" and _same(blocks) and len(blocks) > 1:
        _heat(grid, 1, 0, attention_rollout(trained.model, seen)[0])
        grid.caption(1, 0, "rollout", color=FAINT)
    for row, maps in enumerate(blocks):
        grid.row_label(row, 1, f"block {row}")
        for head in range(maps.shape[1]):
            _heat(grid, row, 1 + head, maps[0, head])
    for head in range(most):
        grid.heading(1 + head, f"{what} {head}")
    return grid.figure


def _attention_of(trained: Trained, seen: Tensor, of: Literal["class", "head"]) -> list[Tensor]:
    compute = class_attention if of == "class" else head_token_attention
    return compute(trained.model, seen)


def _same(blocks: Sequence[Tensor]) -> bool:
    """Whether all maps are of one grid, over which attention can be followed."""
    return len({maps.shape[-2:] for maps in blocks}) == 1


def _heat(grid: ImageGrid, row: int, column: int, heat: Tensor) -> None:
    """Draws a map `(rows, columns)`, NaN where no token is left."""
    values = np.ma.masked_invalid(to_numpy(heat))
    # by the square root, or else one bright patch would leave the others black
    grid.image(row, column, values, cmap=_HEAT, norm=PowerNorm(0.5))


def draw_maps(
    trained: Trained,
    images: Sequence[Tensor],
    pairs: Sequence[GuidedPair],
    *,
    names: Sequence[str] = (),
    label: str = "",
) -> Figure:
    """The student's maps beside the teacher's, before and after the projection.

    Args:
        trained: The student.
        images: uint8 `(C, H, W)` of any sizes.
        pairs: The maps of these images; see `vitrellis.assembly.compared_maps`.
        names: The names of the images.
        label: The name of the run.
    """
    counts = [3 if pair.projected is not None else 2 for pair in pairs]
    firsts = [1 + sum(counts[:number]) for number in range(len(pairs))]
    meaning = "Student and teacher have colours of their own."
    if any(pair.projected is not None for pair in pairs):
        meaning = "Equal colours after the projection and in the teacher are equal features."
    grid = ImageGrid(
        len(images),
        1 + sum(counts),
        title="The student's maps beside its teacher's",
        subtitle=f"{_label(trained, label)}. {meaning}",
        cell=cell_for(trained.preprocessing),
        gaps=dict.fromkeys(firsts, 0.18),
        row_labels=names,
        heading_lines=2,
    )
    grid.heading(0, "image")
    for row, image in enumerate(images):
        grid.image(row, 0, as_seen(image, trained.preprocessing))
    for first, pair in zip(firsts, pairs, strict=True):
        basis = colour_basis(pair.teacher)
        columns = [("student", colours(pair.student, colour_basis(pair.student)))]
        words = pair.name
        if pair.projected is not None:
            columns.append(("projected", colours(pair.projected, basis)))
            words += f": R² {explained(pair.projected, pair.teacher):.2f}"
        columns.append(("teacher", colours(pair.teacher, basis)))
        grid.group(first, first + len(columns) - 1, words)
        for column, (heading, maps) in enumerate(columns, start=first):
            grid.heading(column, heading)
            for row in range(len(images)):
                grid.image(row, column, to_numpy(maps[row].permute(1, 2, 0)))
    return grid.figure


def draw_mistakes(
    trained: Trained,
    images: Sequence[Tensor],
    probabilities: Tensor,
    labels: Tensor,
    *,
    names: Sequence[str] = (),
    columns: int = 6,
    label: str = "",
) -> Figure:
    """Images that are taken for another class, those with the highest probability first.

    Args:
        trained: The model.
        images: uint8 `(C, H, W)` of any sizes: those that are drawn.
        probabilities: `(N, K)` of these images, all of them mistakes.
        labels: `(N,)` int64.
        names: The names of the images.
        columns: The number of images in a row.
        label: A line on the run and the images, below the title.
    """
    found = most_confident_mistakes(probabilities, labels, len(images))
    columns = max(1, min(columns, len(found)))
    rows = max(1, -(-len(found) // columns))
    grid = ImageGrid(
        rows,
        columns,
        title="Most confident mistakes",
        subtitle=label or trained.architecture,
        cell=cell_for(trained.preprocessing, 1.45),
        gaps=dict.fromkeys(range(1, columns), 0.12),
        heading_lines=0,
        caption_lines=2 + bool(names),
    )
    classes = trained.class_names
    for place, mistake in enumerate(found):
        row, column = divmod(place, columns)
        grid.image(row, column, as_seen(images[mistake.index], trained.preprocessing))
        said = f"{classes[mistake.predicted]}: {100 * mistake.probability:.0f} %"
        true = f"is {classes[mistake.label]}: {100 * mistake.label_probability:.0f} %"
        grid.caption(row, column, said, color=WRONG)
        grid.caption(row, column, true, line=1, color=RIGHT)
        if names:
            grid.caption(row, column, names[mistake.index], line=2, color=FAINT)
    return grid.figure


def _label(trained: Trained, label: str) -> str:
    return f"{label}, {trained.architecture}" if label else trained.architecture


def _input(trained: Trained, images: Sequence[Tensor]) -> Tensor:
    """The images as the model takes them, on its device."""
    device = next(trained.model.parameters()).device
    transform = trained.preprocessing.transform()
    resized = torch.stack([transform.resize_and_crop(image) for image in images])
    return transform.normalize(resized).to(device)
