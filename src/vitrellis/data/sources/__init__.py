"""Datasets on disk or in memory, read into one form: a `Source`."""

from vitrellis.data.source import Images, Source, Split, Subset, TensorImages
from vitrellis.data.sources.decoding import IMAGE_SUFFIXES, image_pixels, read_header, read_image
from vitrellis.data.sources.files import ImageFiles, Listing, is_image, list_images
from vitrellis.data.sources.memory import from_dataset, from_tensors
from vitrellis.data.sources.names import (
    SOURCES,
    described_arguments,
    load_source,
    recognized,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "SOURCES",
    "ImageFiles",
    "Images",
    "Listing",
    "Source",
    "Split",
    "Subset",
    "TensorImages",
    "described_arguments",
    "from_dataset",
    "from_tensors",
    "image_pixels",
    "is_image",
    "list_images",
    "load_source",
    "read_header",
    "read_image",
    "recognized",
]
