"""Views of photographs for the training loader, each crop cut from the photograph's own pixels.

Decoded photographs are held in memory, or mapped from a file of pixels (`pixel_cache`), and threads
cut the crops of a batch while the one before it is trained on; or processes read them when they are
needed, and cut the crops there. Either way, a view is a function of the image and of the sample's
key alone.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrellis.data.augmentation.cutting import Cut, Cutter
from vitrellis.data.augmentation.threads import pool_of_threads
from vitrellis.data.canvas import OwnShape, ProgressCallback
from vitrellis.data.image_store import ImageStore
from vitrellis.data.pillow_resize import interleaved
from vitrellis.data.reading_processes import ReadingProcesses
from vitrellis.data.source import Images

_CUTS_AT_A_TIME = 4
_BATCHES_AHEAD = 2


class ViewRequest(NamedTuple):
    """What one process shows of a batch; all tensors are on the CPU.

    Attributes:
        images: `(r,)` numbers of the images to read.
        places: `(n,)` the place among them that each view shows.
        keys: `(n,)` the keys of these views.
        second_keys: `(b,)` the keys of the second views, which show the first `b` places; none
            where the run has no second views.
    """

    images: Tensor
    places: Tensor
    keys: Tensor
    second_keys: Tensor


class ViewImages(NamedTuple):
    """The images of a request, not yet augmented, on the device.

    Attributes:
        first: uint8 `(n, C, H, W)`.
        second: uint8 `(b, C, H, W)`.
        sizes: `(n, 2)` int64 on the CPU, heights and widths of the images that `first` shows; None
            if they are shown as they are stored.
    """

    first: Tensor
    second: Tensor
    sizes: Tensor | None


class ViewStore(Protocol):
    """The images of requests."""

    def read(self, requests: Iterable[ViewRequest]) -> Iterator[ViewImages]:
        """The images of each request, in order."""
        ...


@dataclass(frozen=True)
class UncutViews:
    """Images of one size, from which the device cuts the crops.

    Attributes:
        store: The images.
    """

    store: ImageStore

    def read(self, requests: Iterable[ViewRequest]) -> Iterator[ViewImages]:
        """The images of each request, in order, as they are stored."""
        asked: deque[ViewRequest] = deque()

        def numbers() -> Iterator[Tensor]:
            for request in requests:
                asked.append(request)
                yield request.images

        for stored in self.store.read(numbers()):
            _, places, _, second_keys = asked.popleft()
            first = stored
            if not torch.equal(places, torch.arange(len(stored))):
                first = stored.index_select(0, places.to(stored.device, non_blocking=True))
            yield ViewImages(first, stored[: len(second_keys)], None)


class Photographs(Protocol):
    """Decoded photographs of any sizes.

    Attributes:
        sizes: `(N, 2)` int64 heights and widths.
        channels: Channels of every image.
    """

    sizes: Tensor
    channels: int

    def __getitem__(self, index: int) -> Tensor:
        """uint8 `(C, H, W)`, from any thread."""
        ...


def open_crop_store(
    images: Images,
    *,
    decoded: Photographs | None,
    device: torch.device,
    shape: OwnShape,
    cutters: Sequence[Cutter],
    cache: bool,
    workers: int,
    progress: ProgressCallback | None,
) -> ViewStore:
    """The store of a loader whose images keep their own shape.

    Args:
        images: The images.
        decoded: The same images, reduced, if something holds them already.
        device: The device that views are moved to.
        shape: How far images are reduced.
        cutters: That of the first and that of the second views.
        cache: Hold all images in memory.
        workers: Number of processes that read images if they are not held, and of threads that cut
            views if they are.
        progress: Called after every image that is read here.

    Raises:
        VitrellisError: If an image cannot be read.
    """
    if decoded is None and cache:
        decoded = HeldImages(_held(images, shape, progress))
    if decoded is not None:
        return HeldPhotographs(decoded, cutters, device, max(1, workers))
    return StreamedPhotographs(images, shape, cutters, device, workers)


class HeldImages:
    """Photographs in memory.

    Args:
        images: uint8 `(C, H, W)` each.
    """

    def __init__(self, images: Sequence[Tensor]) -> None:
        self._images = images
        self.sizes = torch.tensor([image.shape[-2:] for image in images])
        self.channels = images[0].shape[0]

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index]


class HeldPhotographs:
    """All photographs decoded; threads cut their views some batches ahead.

    Args:
        photographs: The images.
        cutters: That of the first and that of the second views.
        device: The device that views are moved to.
        threads: Number of threads.
    """

    def __init__(
        self,
        photographs: Photographs,
        cutters: Sequence[Cutter],
        device: torch.device,
        threads: int,
    ) -> None:
        self._photographs = photographs
        self._cutters = cutters
        self._device = device
        self._threads = threads

    def read(self, requests: Iterable[ViewRequest]) -> Iterator[ViewImages]:
        """The views of each request, in order."""
        is_finalizing = sys.is_finalizing  # by then, names of modules may be gone
        pool = pool_of_threads(self._threads, "crops")
        try:
            ahead: deque[tuple[ViewImages, list[Future[None]]]] = deque()
            for request in requests:
                ahead.append(self._begin(request, pool))
                if len(ahead) > _BATCHES_AHEAD:
                    yield _finished(*ahead.popleft(), self._device)
            while ahead:
                yield _finished(*ahead.popleft(), self._device)
        finally:
            if not is_finalizing():  # Python has ended all threads before
                pool.shutdown(cancel_futures=True)

    def _begin(
        self, request: ViewRequest, pool: ThreadPoolExecutor
    ) -> tuple[ViewImages, list[Future[None]]]:
        views, works = _planned(
            self._photographs, request, self._cutters, self._device.type == "cuda"
        )
        parts = [works[i : i + _CUTS_AT_A_TIME] for i in range(0, len(works), _CUTS_AT_A_TIME)]
        return views, [pool.submit(_do, part) for part in parts]


class StreamedPhotographs:
    """Photographs that processes read when they are needed, each once for all its views in a batch.

    Args:
        images: The images.
        shape: How far they are reduced before they are cut.
        cutters: That of the first and that of the second views.
        device: The device that views are moved to.
        workers: Number of processes; 0 reads in this one.
    """

    def __init__(
        self,
        images: Images,
        shape: OwnShape,
        cutters: Sequence[Cutter],
        device: torch.device,
        workers: int,
    ) -> None:
        self._device = device
        self._processes = ReadingProcesses(
            _PhotographReader(images, shape, cutters),
            workers=workers,
            pinned=device.type == "cuda",
        )

    def read(self, requests: Iterable[ViewRequest]) -> Iterator[ViewImages]:
        """The views of each request, in order.

        Raises:
            VitrellisError: If an image cannot be read, or the system ended a process.
        """
        for views in self._processes.read(_packed(request) for request in requests):
            yield _moved(views, self._device)


def _packed(request: ViewRequest) -> tuple[npt.NDArray[np.int64], ...]:
    """A request that names every image once, as arrays: tensors would travel as open files."""
    images, places = request.images.unique(return_inverse=True)
    request = request._replace(images=images, places=places[request.places])
    return tuple(part.numpy() for part in request)


@dataclass(frozen=True)
class _PhotographReader:
    """Reads the photographs of a request, and cuts its views, in a worker."""

    images: Images
    shape: OwnShape
    cutters: Sequence[Cutter]

    def __call__(self, arrays: tuple[npt.NDArray[np.int64], ...]) -> ViewImages:
        request = ViewRequest(*(torch.from_numpy(array) for array in arrays))
        read = HeldImages([self.shape(self.images[index]) for index in request.images.tolist()])
        own = request._replace(images=torch.arange(len(request.images)))
        views, works = _planned(read, own, self.cutters, pinned=False)
        _do(works)
        return views


class _Work(NamedTuple):
    """A view to cut."""

    cutter: Cutter
    photographs: Photographs
    number: int
    what: Cut
    out: Tensor


def _planned(
    photographs: Photographs,
    request: ViewRequest,
    cutters: Sequence[Cutter],
    pinned: bool,
) -> tuple[ViewImages, list[_Work]]:
    """The views of a request, still to be filled, and the work that fills them."""
    numbers = request.images[request.places]  # (n,)
    shown = photographs.sizes[numbers]  # (n, 2)
    works: list[_Work] = []

    def planned(cutter: Cutter, keys: Tensor) -> Tensor:
        shape = (len(keys), photographs.channels, *cutter.size)
        views = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        plan = cutter.plan(keys, shown[: len(keys)])
        for number, what, view in zip(numbers.tolist(), plan, views, strict=False):
            works.append(_Work(cutter, photographs, number, what, view))
        return views

    first, second = cutters
    views = ViewImages(planned(first, request.keys), planned(second, request.second_keys), shown)
    return views, works


def _do(works: Sequence[_Work]) -> None:
    for cutter, photographs, number, what, out in works:
        cutter.cut(photographs[number], what, out)


def _finished(
    views: ViewImages, running: Sequence[Future[None]], device: torch.device
) -> ViewImages:
    for future in running:
        future.result()
    return _moved(views, device)


def _moved(views: ViewImages, device: torch.device) -> ViewImages:
    first, second, sizes = views
    return ViewImages(
        first.to(device, non_blocking=True), second.to(device, non_blocking=True), sizes
    )


def _held(images: Images, shape: OwnShape, progress: ProgressCallback | None) -> list[Tensor]:
    """All images at their own shape, decoded by threads."""
    held = []
    with pool_of_threads(os.cpu_count() or 1, "decoding") as pool:
        read = pool.map(lambda index: interleaved(shape(images[index])), range(len(images)))
        for count, image in enumerate(read, start=1):
            held.append(image)
            if progress is not None:
                progress(count, len(images))
    return held
