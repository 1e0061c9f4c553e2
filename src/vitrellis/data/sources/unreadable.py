"""Images that loaders found to be unreadable, and the error that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vitrellis.data.source import BadImage, Images, Source, Subset
from vitrellis.data.sources.encoded import EncodedImages
from vitrellis.data.sources.files import ImageFiles
from vitrellis.errors import VitrellisError

_SHOWN = 10
_REMEDY = "; remove it or replace it"


def refuse_known_bad(source: Source) -> Source:
    """The source itself, if no image was found to be bad when it was opened.

    Raises:
        VitrellisError: If there are such images: names up to ten, and counts them.
    """
    bad = known_bad(source)
    if bad:
        raise refusal_of(bad, source)
    return source


def refusal_of(bad: Sequence[BadImage], source: Source) -> VitrellisError:
    """The error that names up to ten bad images, and counts them.

    Args:
        bad: At least one.
        source: The source that has them.
    """
    way_out = "data.on_bad_image=skip leaves such images out"
    if len(bad) == 1:
        return VitrellisError(f"{bad[0].reason}. {way_out}")
    total = sum(len(split) for split in source.splits.values())
    return VitrellisError(
        f"{len(bad):,} of {total:,} images cannot be read:{listed(bad)}\n"
        f"Remove them or replace them; {way_out}"
    )


def listed(bad: Sequence[BadImage]) -> str:
    """Lines for up to ten bad images, and one that counts the others."""
    lines = [f"\n  {short(one)}" for one in bad[:_SHOWN]]
    more = f"\n  and {len(bad) - _SHOWN:,} more; vitrellis data inspect FOLDER --json names all"
    return "".join(lines) + (more if len(bad) > _SHOWN else "")


def short(one: BadImage) -> str:
    """What is wrong with an image, without what to do about it."""
    return one.reason.removesuffix(_REMEDY)


def known_bad(source: Source) -> list[BadImage]:
    """The images that were found to be unreadable when the source was opened."""
    return [
        BadImage(name, index, split.images.name(index), reason)
        for name, split in source.splits.items()
        for index, reason in _reasons(split.images).items()
    ]


def _reasons(images: Images) -> Mapping[int, str]:
    """What was found out about images when they were opened, by their numbers."""
    if isinstance(images, ImageFiles | EncodedImages):
        return images.bad
    if not isinstance(images, Subset) or not (reasons := _reasons(images.base)):
        return {}
    numbers = enumerate(images.indices.tolist())
    return {place: reasons[index] for place, index in numbers if index in reasons}
