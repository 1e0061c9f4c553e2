"""Recipes, command lines and images that nobody would write, given to the real commands.

Each trial draws from its own seed. It has to end in exit code 0, or in one message and exit code 1
or 2, without a traceback, in bounded time and memory, and without executing a payload.
"""

from __future__ import annotations

import io
import random
import resource
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import typer
import yaml
from PIL import Image

from tests.campaign.findings import Findings, OutOfTimeError, time_limit
from tests.cli.command import vitrellis
from tests.training.command import FEW_IMAGES, write_few_images
from vitrellis.cli.main import app
from vitrellis.recipe import describe, load_recipe
from vitrellis.recipe.packaged import packaged_recipes

_SECONDS = 40
_LARGEST_GROWTH = 2_000_000  # kilobytes of resident memory
_CANARY = "canary"
_MESSAGES = ("error: ", "usage", "Usage", "- training cannot begin: ", "shell  not supported")
"""One of them is in what a command prints that fails: the last two are in the report of `data
inspect`, and Typer's where it finds no shell to complete words for."""
_QUICK = [FEW_IMAGES, "data.train_size=null", "training.epochs=1", "schedule.warmup_epochs=0"]
_QUICK += ["machine.threads=1", "machine.accelerator=cpu"]
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 1e-9, 0.5, 1e9, 10**30, float("inf"), float("nan")),
    *("", "x", "auto", "null", "é", "[/red]", "a\nb", "../..", "/dev/null", "~", "x" * 300),
    *([], [0], [1, 2], [-1, 5], ["x"], [[1]], {}, {"x": 1}, {"value": 1.0}, [None], {"": {}}),
    *("cifar_resnet8", "resnet18", "kd", "bilinear", "demo", "demo-teacher", 64, 224, 10_000),
)
_SMALL = "model.name=vit_micro_patch7_28"
_KD = ["teacher.model=cifar_resnet8", "objective.kd.weight=1"]
_BASES: tuple[list[str], ...] = (
    [],
    ["training.ema=0.9", "training.accumulate=2", "training.clip_grad=1"],
    ["augmentation.mixup=0.8", "augmentation.cutmix=1", "augmentation.repeats=2"],
    ["data.long_tail.imbalance_factor=3", "objective.cross_entropy.label_smoothing=0.1"],
    ["optimizer.sam.rho=0.05", "data.sampler=class_balanced"],
    [*_KD, "teacher.mode=train"],
    [*_KD, "teacher.offline=true", "objective.kd.standardize=true"],
    [*_KD, "objective.locality={student_blocks: [0, 1], teacher_blocks: [0, 1]}"],
    ["objective.paco={}", "augmentation.second_view={}"],
)
_RIGHT = (
    ["train", "demo-alone", *_QUICK, "model.name=vit_micro_patch7_28", "--out", "runs/x"],
    ["eval", "runs/x"],
    ["eval", "runs/x", "--json"],
    ["predict", "runs/x", "images"],
    ["predict", "runs/x", "images/0.png", "--json"],
    ["export", "runs/x", "--format", "timm", "--out", "exported"],
    ["verify", "runs/x"],
    ["show", "blocks", "runs/x"],
    ["models", "cifar_resnet8"],
    ["recipes", "show", "demo"],
    ["recipes", "keys", "optimizer"],
    ["data", "inspect", "fashion"],
    ["data", "inspect", "images"],
    ["data", "pack", "images", "packed"],
    ["import", "runs/x/model/model.safetensors", "--out", "imported"],
    ["bench", "cifar_resnet8"],
)
_TEXTS = (
    *("&a [*a]", "*b", "!!python/object/apply:os.system ['touch canary']", "{", "]", ": :", "- -"),
    *("<<: *x", "!!binary x", "%TAG", "\t", "---", "? x", "| x", "'", '"\\ud800"', "\u2028"),
    *(
        "9" * 5000,
        "[" * 200,
        "{{ x }}",
        "${HOME}",
        "$(touch canary)",
        "`touch canary`",
        "2001-99-99",
    ),
)


def trial(words: list[str], folder: Path) -> tuple[str, str | None]:
    """Runs a command in this process.

    Args:
        words: The command line.
        folder: Where it runs.

    Returns:
        How it ended, and what is wrong with that; None if nothing is.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with time_limit(_SECONDS):
            ended = vitrellis(*words, cwd=folder)
    except OutOfTimeError:
        return f"more than {_SECONDS} s", None
    except BaseException:  # noqa: BLE001 - what else may come is what is looked for
        return "traceback", traceback.format_exc()[-700:]
    end = f"exit {ended.returncode}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if (folder / _CANARY).exists():
        return end, "a payload was executed"
    if grown > _LARGEST_GROWTH:
        return end, f"{grown // 1000:,} MB more memory"
    if "Traceback" in ended.stderr or ended.returncode not in (0, 1, 2):
        return end, ended.stderr[-700:]
    said = ended.stderr.lower() + ended.stdout
    if ended.returncode and not any(word in said for word in _MESSAGES):
        return end, f"no message: {ended.stderr[-300:]!r} {ended.stdout[-300:]!r}"
    return end, None


def recipes(folder: Path, trials: int, seed: int) -> Findings:
    """Mutated recipes: of all that are packaged, only read; and small ones, trained."""
    found = Findings("mutated recipes")
    write_few_images((FEW_IMAGES,), folder)
    names = packaged_recipes()
    for number in range(seed, seed + trials):
        draw = random.Random(f"recipe {number}")
        trains = number % 4 == 0
        small = load_recipe("demo-alone", [_SMALL, *_QUICK, *draw.choice(_BASES)])
        text = describe(small if trains else load_recipe(draw.choice(names)))
        mutate = _structure if draw.random() < 0.6 else _text
        file = folder / "mutated.yaml"
        file.write_bytes(mutate(text, draw).encode(errors="surrogatepass"))
        shutil.rmtree(folder / "runs", ignore_errors=True)
        words = ["recipes", "show", str(file)]
        if trains:
            # several devices would start this test's own process again
            words = ["train", str(file), "machine.devices=1", "--out", "runs/x"]
        end, wrong = trial(words, folder)
        found.ends[f"{words[0]} {end}"] += 1
        if wrong:
            found.wrong.append(f"recipe {number}: {wrong}")
    return found


def commands(folder: Path, trials: int, seed: int) -> Findings:
    """Command lines of random words, options and keys, beside a small run."""
    found = Findings("mutated command lines")
    place = _place(folder)
    group: Any = typer.main.get_command(app)
    for number in range(seed, seed + trials):
        draw = random.Random(f"command {number}")
        words = _command_line(group, draw)
        end, wrong = trial(words, place)
        found.ends[end] += 1
        if wrong:
            found.wrong.append(f"command {number} {words}: {wrong}")
        for left in place.iterdir():
            if left.name not in ("runs", "images", "fashion"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return found


def pictures(folder: Path, trials: int, seed: int) -> Findings:
    """Damaged images of many formats and modes, classified by a small run."""
    found = Findings("damaged images")
    place = _place(folder)
    for number in range(seed, seed + trials):
        draw = random.Random(f"picture {number}")
        ending, content = _picture(draw)
        file = place / f"picture.{ending}"
        file.write_bytes(_damaged(content, draw))
        end, wrong = trial(
            ["predict", "runs/x", str(file), *(["--json"] * draw.randrange(2))], place
        )
        found.ends[end] += 1
        if wrong:
            found.wrong.append(f"picture {number} ({ending}): {wrong}")
        file.unlink()
    return found


INPUTS: dict[str, Callable[[Path, int, int], Findings]] = {
    "recipes": recipes,
    "commands": commands,
    "pictures": pictures,
}


def _place(folder: Path) -> Path:
    """A folder with a run in `runs/x`, and a few images."""
    place = folder / "place"
    if not place.exists():
        (place / "images").mkdir(parents=True)
        write_few_images((FEW_IMAGES,), place)
        words = ["train", "demo-alone", *_QUICK, "model.name=vit_micro_patch7_28"]
        ended = vitrellis(*words, "--out", "runs/x", cwd=place)
        assert ended.returncode == 0, ended.stderr
        for number in range(2):
            _image(number, "L").save(place / "images" / f"{number}.png")
    return place


def _structure(text: str, draw: random.Random) -> str:
    """The same recipe with one to three values changed, left out, renamed or added."""
    values = yaml.safe_load(text)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        at, depth = values, draw.randint(1, 4)
        for _ in range(depth):
            inner = [key for key, value in at.items() if isinstance(value, dict) and value]
            if not inner:
                break
            at = at[draw.choice(inner)]
        key = draw.choice(list(at))
        change = draw.randrange(9)
        if change > 4 and type(at[key]) in (int, float):
            at[key] *= draw.choice([-1, 0, 0.5, 2, 3, 10, 1000])
        elif change > 4 and isinstance(at[key], bool):
            at[key] = not at[key]
        elif change == 0:
            del at[key]
        elif change == 1:
            at[draw.choice(["x", "", key + "s", "no", key.upper()])] = at.pop(key)
        else:
            at[key] = draw.choice(_VALUES)
        if not at:
            break
    return yaml.safe_dump(values, allow_unicode=True)


def _text(text: str, draw: random.Random) -> str:
    """The same text with some of its lines, words and letters changed."""
    lines = text.splitlines()
    for _ in range(draw.randint(1, 3)):
        number = draw.randrange(len(lines))
        line = lines[number]
        key = line.partition(":")[0]
        lines[number] = draw.choice(
            [
                f"{key}: {draw.choice(_TEXTS)}",
                f"{line} {draw.choice(_TEXTS)}",
                f"{draw.choice(_TEXTS)} {line}",
                line.replace(":", draw.choice(["", "::", " :"])),
                " " * draw.randint(1, 9) + line,
                line.strip(),
                line + chr(draw.choice([0, 7, 27, 0x202E, 0xFEFF, 0x1F600, 0xD800])),
                f"{line}\n{line}",
                line[: len(line) // 2],
            ]
        )
    return "\n".join(lines)


def _command_line(group: Any, draw: random.Random) -> list[str]:
    """A right command line with one or two words changed; or any words."""
    words: list[str] = []
    command = group
    if draw.random() < 0.5:
        words = list(draw.choice(_RIGHT))
        for name in words[: 2 if words[0] in ("show", "data", "recipes") else 1]:
            command = command.commands[name]
        kept = words[:1]
        words = words[1:]
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(words) + 1)
            words[place : place + draw.randrange(2)] = [_word(command, draw)]
        return _sayable(kept + words)
    while hasattr(command, "commands") and draw.random() < 0.97:
        name = draw.choice(sorted(command.commands))
        words.append(name)
        command = command.commands[name]
    words += [_word(command, draw) for _ in range(draw.randint(0, 5))]
    if words[:1] in (["train"], ["demo"], ["compare"], ["features"]):
        words += _QUICK
    return _sayable(words)


def _word(command: Any, draw: random.Random) -> str:
    options = [name for parameter in command.params for name in parameter.opts if name[0] == "-"]
    keys = ["training.epochs", "model.name", "data.root", "objective.kd.weight", "seed", "x.y", ""]
    pool: list[Callable[[], str]] = [
        lambda: draw.choice(["runs/x", "images", "images/0.png", "demo-alone", "runs", "x", "."]),
        lambda: draw.choice(options or ["--help"]),
        lambda: str(draw.choice(_VALUES)),
        lambda: draw.choice(_TEXTS),
        lambda: f"{draw.choice(keys)}={draw.choice(_VALUES)}",
        lambda: f"{draw.choice(options or ['--x'])}={draw.choice(_VALUES)}",
    ]
    return draw.choice(pool)()


def _sayable(words: list[str]) -> list[str]:
    """Without half characters and zero bytes, which the system cannot give to a command."""
    return [word.encode(errors="ignore").decode().replace("\0", "") for word in words]


def _image(seed: int, mode: str) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def _picture(draw: random.Random) -> tuple[str, bytes]:
    modes = {
        "png": ["L", "RGB", "RGBA", "P", "1", "LA", "I;16"],
        "jpg": ["L", "RGB", "CMYK"],
        "bmp": ["L", "RGB", "P", "1"],
        "gif": ["L", "P"],
        "tif": ["L", "RGB", "RGBA", "F", "I;16", "CMYK", "1"],
        "webp": ["RGB", "RGBA"],
        "ppm": ["L", "RGB"],
    }
    ending = draw.choice(sorted(modes))
    buffer = io.BytesIO()
    names = {"jpg": "JPEG", "tif": "TIFF"}
    image = _image(draw.randrange(100), draw.choice(modes[ending]))
    image.save(buffer, names.get(ending, ending.upper()))
    return ending, buffer.getvalue()


def _damaged(content: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5, 20])):
        at = draw.randrange(len(damaged))
        kind = draw.randrange(6)
        if kind == 0:
            damaged[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            damaged[at] = draw.choice([0, 1, 127, 128, 255])
        elif kind == 2 and len(damaged) > 8:
            del damaged[at : at + draw.randint(1, 40)]
        elif kind == 3:
            damaged[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 20)))
        elif kind == 4:
            damaged[at : at + 4] = draw.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
        elif len(damaged) > 40:
            del damaged[max(at, 8) :]
        if not damaged:
            return b""
    return bytes(damaged)
