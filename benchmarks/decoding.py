"""Milliseconds per JPEG image of several decoders, and whether their pixels are those of Pillow.

Each decoder makes a uint8 tensor `(C, H, W)` from the bytes of a file, with the channels of a pixel
side by side in memory. Images are the photographs of a folder, at their own size and as 64-pixel
JPEG files. Rounds of the decoders alternate; the figures are the median processor time, and the
ratio of Pillow's to it. PyTurboJPEG and OpenCV (`opencv-python-headless`) are left out if they are
not installed.

A second table shows what kinds of JPEG files each decoder reads as Pillow does: the largest
difference in grey levels, or the error. The last table shows what decoding at a reduced scale
(Pillow's `draft`) gains where photographs become small anyway, and how far its pixels are off.

    python benchmarks/decoding.py FOLDER [--images 200] [--rounds 5]
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from vitrellis.data.sources.decoding import decode_image
from vitrellis.data.sources.files import list_images
from vitrellis.errors import VitrellisError
from vitrellis.report.hardware import describe_hardware

Decoder = Callable[[bytes], Tensor]
SMALL = 64
SHORT_SIDES = (32, 64, 128)
"""Short sides in pixels to which photographs are reduced in the last table."""


def main() -> None:
    """Prints the three tables."""
    parser = argparse.ArgumentParser(description="JPEG decoders: time and pixels.")
    parser.add_argument("folder", type=Path, help="with photographs as JPEG files")
    parser.add_argument("--images", type=int, default=200, help="number of photographs")
    parser.add_argument("--rounds", type=int, default=5, help="of each decoder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = [
        p for p in list_images(arguments.folder).images if p.suffix.lower() in (".jpg", ".jpeg")
    ]
    step = max(1, len(paths) // arguments.images)
    photographs = [path.read_bytes() for path in paths[::step][: arguments.images]]
    pictures = [Image.open(io.BytesIO(content)).convert("RGB") for content in photographs]
    small = [encoded(picture.resize((SMALL, SMALL))) for picture in pictures]
    side = statistics.median(max(picture.size) for picture in pictures)
    print(f"{describe_hardware()}; {len(photographs)} photographs, median long side {side:.0f}\n")
    print_times({"photographs": photographs, f"{SMALL} px": small}, arguments.rounds)
    print()
    print_differences(pictures[0])
    print()
    print_drafts(photographs, arguments.rounds)


def decoders() -> dict[str, Decoder]:
    """Those that are installed, Pillow's first."""
    found: dict[str, Decoder] = {
        "ours": lambda content: decode_image(content, 3, "photograph"),
        "Pillow": lambda content: planar(np.array(Image.open(io.BytesIO(content)).convert("RGB"))),
        "torchvision.io": lambda content: decode_jpeg(
            torch.frombuffer(bytearray(content), dtype=torch.uint8),
            ImageReadMode.RGB,
            apply_exif_orientation=True,
        ),
        "simplejpeg": lambda content: planar(simplejpeg.decode_jpeg(content)),
    }
    if importlib.util.find_spec("turbojpeg"):
        from turbojpeg import TJPF_RGB, TurboJPEG

        try:
            turbo = TurboJPEG()
        except RuntimeError:  # the library itself is missing
            turbo = None
        if turbo is not None:
            found["PyTurboJPEG"] = lambda content: planar(turbo.decode(content, TJPF_RGB))
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        found["OpenCV"] = lambda content: planar(
            cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
        )
    return found


def planar(array: np.ndarray) -> Tensor:
    """`(H, W, C)` to `(C, H, W)`, without moving numbers."""
    return torch.from_numpy(array).permute(2, 0, 1)


def encoded(picture: Image.Image, **settings: object) -> bytes:
    """A JPEG file in memory."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **({"quality": 90} | settings))
    return stream.getvalue()


def print_times(sets: dict[str, list[bytes]], rounds: int) -> None:
    """A row per decoder: milliseconds per image, and the ratio to Pillow's."""
    heads = [f"{name}, ms | ratio to Pillow" for name in sets]
    print(f"| decoder | {' | '.join(heads)} |")
    print("|---|" + "---:|---:|" * len(sets))
    rows: dict[str, list[str]] = {name: [] for name in decoders()}
    for contents in sets.values():
        times: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(rounds + 1):  # the first is for warming up
            for name, decode in decoders().items():
                times[name].append(cpu_milliseconds(decode, contents))
        medians = {name: statistics.median(each[1:]) for name, each in times.items()}
        first = medians["Pillow"]
        for name, median in medians.items():
            rows[name] += [f"{median:.3f}", f"{first / median:.2f}"]
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def cpu_milliseconds(decode: Decoder, contents: list[bytes]) -> float:
    """Processor time of a decoder for each image."""
    started = time.process_time()
    for content in contents:
        decode(content)
    return 1e3 * (time.process_time() - started) / len(contents)


def print_differences(picture: Image.Image) -> None:
    """A row per kind of file, and a column per decoder."""
    turned = Image.Exif()
    turned[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (67, 93, 3), dtype=np.uint8)
    whole = encoded(picture)
    kinds = {
        "4:2:0": encoded(picture, subsampling=2),
        "4:2:2": encoded(picture, subsampling=1),
        "4:4:4": encoded(picture, subsampling=0),
        "noise of odd size, 4:2:0": encoded(Image.fromarray(noise), subsampling=2),
        "progressive": encoded(picture, progressive=True),
        "grey": encoded(picture.convert("L")),
        "CMYK": encoded(picture.convert("CMYK")),
        "EXIF orientation 6": encoded(picture, exif=turned.tobytes()),
        "half of the file": whole[: len(whole) // 2],
        "a byte changed": whole[: len(whole) // 2] + b"\xff\xd9" + whole[len(whole) // 2 + 2 :],
    }
    names = [name for name in decoders() if name != "Pillow"]
    print(f"| file | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for kind, content in kinds.items():
        results = [outcome(decoders()[name], content) for name in names]
        cells = ["refused" if isinstance(results[0], str) else "read"]
        for result in results[1:]:
            if isinstance(result, str):
                cells.append("refused")
            elif isinstance(results[0], str):
                cells.append("**read**")
            elif result.shape != results[0].shape:
                cells.append(f"**{tuple(result.shape)}**")
            else:
                difference = (result.int() - results[0].int()).abs()
                share = (difference > 0).double().mean()
                cells.append(
                    "equal" if not share else f"**{int(difference.max())}** ({100 * share:.0f} %)"
                )
        print(f"| {kind} | {' | '.join(cells)} |")


def outcome(decode: Decoder, content: bytes) -> Tensor | str:
    """The pixels, or the error's words."""
    try:
        return decode(content)
    except (VitrellisError, ValueError, OSError, RuntimeError, AttributeError, TypeError) as error:
        return str(error) or type(error).__name__


def print_drafts(photographs: list[bytes], rounds: int) -> None:
    """A row per short side: time of decoding and resizing with and without `draft`, and pixels."""
    print("| short side | whole, ms | reduced, ms | ratio | mean difference | largest |")
    print("|---:|---:|---:|---:|---:|---:|")
    for short in SHORT_SIDES:
        times: list[list[float]] = [[], []]
        for _ in range(rounds + 1):
            for use_draft, own in enumerate(times):
                started = time.process_time()
                for content in photographs:
                    reduced(content, short, bool(use_draft))
                own.append(1e3 * (time.process_time() - started) / len(photographs))
        whole, drafted = (statistics.median(each[1:]) for each in times)
        differences = [
            np.abs(reduced(c, short, True).astype(int) - reduced(c, short, False).astype(int))
            for c in photographs
        ]
        mean = statistics.mean(float(difference.mean()) for difference in differences)
        largest = max(int(difference.max()) for difference in differences)
        print(
            f"| {short} | {whole:.2f} | {drafted:.2f} | {whole / drafted:.2f} "
            f"| {mean:.2f} | {largest} |"
        )


def reduced(content: bytes, short: int, use_draft: bool) -> np.ndarray:
    """A photograph whose short side has so many pixels, `(H, W, C)` uint8."""
    image = Image.open(io.BytesIO(content))
    scale = short / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    if use_draft:
        image.draft("RGB", size)
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


if __name__ == "__main__":
    main()
