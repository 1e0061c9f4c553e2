"""HEIC and AVIF, the formats in which phones store photos: read where a library for them is there.

AVIF is read by Pillow itself from version 11.3 on, HEIC (HEIF) by its plugin pillow-heif.
"""

from __future__ import annotations

from functools import cache

from PIL import features

PHONE_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".avif"})
"""The endings of such files' names, in lower case."""

_BRANDS = {
    "AVIF": (b"avif", b"avis"),
    "HEIF": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
}
"""The brands by which such files begin, after their length and `ftyp`."""

_NEEDED = {
    "AVIF": "Pillow 11.3 or newer: pip install --upgrade pillow",
    "HEIF": "the extra heic: pip install 'vitrellis[heic]'",
}


@cache
def phone_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that can be read here. Every process has to ask."""
    # a version that has not heard of it would warn
    found = ["AVIF"] if "avif" in features.modules and features.check("avif") else []
    try:
        import pillow_heif
    except ImportError:
        return tuple(found)
    pillow_heif.register_heif_opener()
    return (*found, "HEIF")


def missing_library(beginning: bytes) -> str | None:
    """What has to be installed to read a file, in words; None if it is of neither format.

    Args:
        beginning: The first 12 bytes of the file.
    """
    if beginning[4:8] != b"ftyp":
        return None
    for name, brands in _BRANDS.items():
        if beginning[8:12] in brands and name not in phone_formats():
            kind = "HEIC" if name == "HEIF" else name
            return f"is a photo in the format {kind}, which needs {_NEEDED[name]}"
    return None
