"""A grid of small pictures with titles around it, laid out in inches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from vitrellis.data.eval_transform import ResizeAndCrop
from vitrellis.runs.exported import Preprocessing

INK = "#222222"
FAINT = "#777777"
RIGHT = "#00704f"
WRONG = "#b3400a"
"""Okabe and Ito's green and vermilion, darkened so that small letters can be read."""

_TITLE, _LABEL, _SMALL = 12.0, 9.0, 8.0  # points
_LINE = 0.17
"""The height of a line of small letters, in inches."""
_MARGIN = 0.2
_LEAST_WIDTH = 6.5
"""The least width of a figure in inches, for its title and the line below it."""
_LETTER = 0.075
"""The width of a letter of a label, in inches, on the safe side."""


class ImageGrid:
    """Pictures in rows and columns, all of one size, on a figure that is as large as it must be.

    Args:
        rows: The number of rows.
        columns: The number of columns.
        title: The title, at the upper left.
        subtitle: A line below it.
        cell: The sides of a picture in inches: width and height.
        gaps: The further space to the left of some columns, in inches, by their numbers.
        row_labels: The labels at the left of the rows; none if empty.
        heading_lines: The lines of text above the first row, as `heading` and `group` write them.
        caption_lines: The lines of text below each picture.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        title: str,
        subtitle: str = "",
        cell: tuple[float, float] = (1.15, 1.15),
        gaps: dict[int, float] | None = None,
        row_labels: Sequence[str] = (),
        heading_lines: int = 1,
        caption_lines: int = 0,
    ) -> None:
        self.cell = cell
        labels = [shorten(label) for label in row_labels]
        label_width = 0.15 + _LETTER * max(map(len, labels)) if labels else 0.0
        steps = [cell[0] + 0.06 + (gaps or {}).get(column + 1, 0.0) for column in range(columns)]
        self._left = [_MARGIN + label_width + x for x in accumulate(steps, initial=0.0)]
        width = self._left[-1] - 0.06 + _MARGIN
        width = max(width, _LEAST_WIDTH)
        subtitle = shorten(subtitle, int((width - 2 * _MARGIN) / _LETTER * 1.05))
        self._row_height = cell[1] + 0.06 + _LINE * caption_lines + (0.1 if caption_lines else 0.0)
        self._top = _MARGIN + 0.3 + (0.24 if subtitle else 0.0) + 0.1 + _LINE * heading_lines
        height = self._top + rows * self._row_height + _MARGIN - 0.06
        self.figure = Figure(figsize=(width, height))
        self._size = (width, height)
        self._text(_MARGIN, _MARGIN, title, size=_TITLE, weight="bold")
        self._text(_MARGIN, _MARGIN + 0.28, subtitle, size=_LABEL, color=FAINT)
        for row, label in enumerate(labels):
            y = self._top + row * self._row_height + cell[1] / 2
            self._text(self._left[0] - 0.1, y, label, ha="right", va="center")

    def image(self, row: int, column: int, picture: npt.NDArray[Any], **kwargs: Any) -> Axes:
        """Draws a picture, as `matplotlib.axes.Axes.imshow` does with the same arguments."""
        width, height = self._size
        x, y = self._left[column], self._top + row * self._row_height
        box = (x / width, 1 - (y + self.cell[1]) / height, self.cell[0] / width)
        axes = self.figure.add_axes((*box, self.cell[1] / height))
        axes.imshow(picture, **({"aspect": "auto", "interpolation": "nearest"} | kwargs))
        axes.set_axis_off()
        return axes

    def heading(self, column: int, text: str, *, line: int = 0) -> None:
        """Writes above a column; line 0 is just above the pictures."""
        x = self._left[column] + self.cell[0] / 2
        y = self._top - 0.05 - _LINE * line
        self._text(x, y, text, size=_SMALL, ha="center", va="bottom", color=FAINT)

    def group(self, first: int, last: int, text: str, *, line: int = 1) -> None:
        """Writes above several columns, with a rule below it."""
        left, right = self._left[first], self._left[last] + self.cell[0]
        y = self._top - 0.05 - _LINE * line
        self._text((left + right) / 2, y - 0.03, text, ha="center", va="bottom", weight="bold")
        width, height = self._size
        rule = ([left / width, right / width], [1 - y / height] * 2)
        self.figure.add_artist(_rule(self.figure, rule))

    def row_label(self, row: int, column: int, text: str) -> None:
        """Writes at the left of a picture, in a gap."""
        y = self._top + row * self._row_height + self.cell[1] / 2
        self._text(self._left[column] - 0.08, y, text, size=_SMALL, ha="right", va="center")

    def caption(self, row: int, column: int, text: str, *, line: int = 0, color: str = INK) -> None:
        """Writes below a picture, as much as fits its width."""
        y = self._top + row * self._row_height + self.cell[1] + 0.04 + _LINE * line
        most = int(self.cell[0] / _LETTER)
        x = self._left[column] + self.cell[0] / 2
        self._text(x, y, shorten(text, most), size=_SMALL, ha="center", va="top", color=color)

    def _text(self, x: float, y: float, text: str, *, size: float = _LABEL, **kwargs: Any) -> None:
        width, height = self._size
        style: dict[str, Any] = {"color": INK, "va": "top", "parse_math": False} | kwargs
        self.figure.text(x / width, 1 - y / height, text, fontsize=size, **style)


def _rule(figure: Figure, points: tuple[list[float], list[float]]) -> Line2D:
    return Line2D(*points, transform=figure.transFigure, color="#bbbbbb", linewidth=0.8)


def shorten(text: str, most: int = 18) -> str:
    """The text with its middle left out, if it is longer than `most` letters."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def as_seen(
    image: Tensor, preprocessing: Preprocessing, side: int = 240
) -> npt.NDArray[np.float64]:
    """The part of an image that the model sees, in finer pixels than it sees it.

    Args:
        image: uint8 `(C, H, W)` of any size.
        preprocessing: The preprocessing of the model.
        side: The least number of pixels of its shorter side.

    Returns:
        `(h, w, 3)` in [0, 1]. One channel becomes grey, and of other numbers the mean is shown.
    """
    height, width = preprocessing.img_size
    finer = -(-side // min(height, width))
    resize = ResizeAndCrop(
        (height * finer, width * finer),
        preprocessing.interpolation,
        preprocessing.crop_pct,
        preprocessing.crop_mode,
        preprocessing.transform().resize_and_crop.fill,
    )
    pixels = resize(image).double() / 255  # (C, h, w)
    if len(pixels) != 3:
        pixels = pixels.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return np.asarray(pixels.permute(1, 2, 0))


def to_numpy(values: Tensor) -> npt.NDArray[np.float64]:
    """A tensor on the CPU, in float64."""
    return values.detach().to("cpu", torch.float64).numpy()


def cell_for(preprocessing: Preprocessing, longer: float = 1.15) -> tuple[float, float]:
    """The width and the height of pictures of the model's shape, in inches."""
    height, width = preprocessing.img_size
    return longer * width / max(height, width), longer * height / max(height, width)
