"""Answers of teachers on disk: the same as online, sampled where the images were warped."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.training.command import FEW_IMAGES, TINY, run, weights
from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.augmentation.warps import sample_maps
from vitrellis.data.canvas import Fit, OnCanvas, OwnShape
from vitrellis.data.eval_transform import EvalTransform
from vitrellis.data.loader import Batch, EvalLoader, TrainLoader
from vitrellis.data.sources import Split, from_tensors
from vitrellis.errors import VitrellisError
from vitrellis.models import create_model
from vitrellis.objectives import Needs, TeacherOutput
from vitrellis.runs.directory import RunDirectory
from vitrellis.teachers.precomputed import (
    PrecomputedKey,
    PrecomputedOutputs,
    PrecomputedTeacher,
    weights_digest,
)
from vitrellis.teachers.teacher import Teacher

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NEEDS = Needs(teacher_blocks=(0, 2), teacher_logits=True)
SIZE = (24, 32)


def images(count: int = 10) -> Split:
    pixels = torch.rand(count, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(pixels, SIZE, mode="bicubic").clamp(0, 1)
    return from_tensors((255 * smooth).to(torch.uint8), torch.arange(count) % 2).train


def teacher() -> Teacher:
    torch.manual_seed(0)
    return Teacher(
        create_model("cifar_resnet8", num_classes=5),
        img_size=(16, 16),
        channels=3,
        mean=MEAN,
        std=STD,
        student_mean=MEAN,
        student_std=STD,
    )


def augment(**settings: object) -> TrainTransform:
    return TrainTransform(size=SIZE, mean=MEAN, std=STD, interpolation="bilinear", **settings)  # type: ignore[arg-type]


def loader(
    split: Split, varied: TrainTransform, canvas: tuple[int, int] | OwnShape = SIZE
) -> TrainLoader:
    return TrainLoader(
        split,
        num_classes=2,
        batch_size=5,
        transform=varied,
        mix=None,
        seed=0,
        device=CPU,
        canvas=canvas,
    )


def as_they_are(split: Split, batch_size: int = 4) -> EvalLoader:
    plain = EvalTransform(size=SIZE, mean=MEAN, std=STD, interpolation="bilinear")
    return EvalLoader(split, transform=plain, batch_size=batch_size, device=CPU)


def key(precision: str = "float32", teacher: str = "t") -> PrecomputedKey:
    return PrecomputedKey(teacher, "images", "shown", (0, 2), precision)  # type: ignore[arg-type]


def filled(folder: Path, precision: str = "float32") -> PrecomputedOutputs:
    split = images()
    store = PrecomputedOutputs(folder, key(precision), len(split))
    store.fill(teacher(), as_they_are(split))
    return PrecomputedOutputs(folder, key(precision), len(split))


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
def test_offline_is_online_on_images_as_they_are(
    tmp_path: Path, precision: str, tolerance: float
) -> None:
    store = filled(tmp_path, precision)
    varied = augment(crop="none", flip=0.0)
    offline, online = PrecomputedTeacher(store, varied, SIZE), teacher()
    for batch in loader(images(), varied).epoch(0):
        mine, theirs = offline(batch, NEEDS), online(batch.images, NEEDS)
        assert mine.logits is not None
        assert theirs.logits is not None
        scale = max(1.0, theirs.logits.abs().max().item())
        assert (mine.logits - theirs.logits).abs().max() <= tolerance * scale
        for block in NEEDS.teacher_blocks:
            assert (mine.maps[block] - theirs.maps[block]).abs().max() <= tolerance * 10


def test_outputs_that_do_not_fit_are_not_stored(tmp_path: Path) -> None:
    """Half precision ends at 65,504: larger values would be stored as infinity."""
    one, split = teacher(), images()
    with torch.no_grad():
        one.model.get_parameter("fc.weight").fill_(1e6)
    with pytest.raises(
        VitrellisError, match=r"logits\.npy: not written.*float16 ends at 6\.55e\+04"
    ):
        PrecomputedOutputs(tmp_path / "half", key("float16"), len(split)).fill(
            one, as_they_are(split)
        )
    PrecomputedOutputs(tmp_path / "whole", key(), len(split)).fill(one, as_they_are(split))
    with torch.no_grad():
        one.model.get_parameter("fc.weight")[0] = torch.nan
    store = PrecomputedOutputs(tmp_path / "nan", key(), len(split))
    with pytest.raises(VitrellisError, match=r"its weight fc\.weight"):
        store.fill(one, as_they_are(split))
    assert store.num_done == 0


def shown(batch: Batch) -> Tensor:
    """The images of a batch before they were normalised, in [0, 1]."""
    return batch.images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"crop": "none", "flip": 1.0},
        {"crop": "none", "flip": 0.0, "vertical_flip": 1.0},
        {"crop": "resized", "flip": 0.5, "vertical_flip": 0.5},
        {"crop": "padded", "padding": 3, "flip": 0.5},
    ],
    ids=str,
)
def test_maps_are_taken_from_where_the_pixels_come_from(settings: dict[str, object]) -> None:
    """Sampling the stored image as if it were a map gives the augmented image."""
    split = images()
    varied = augment(**settings)
    stored = torch.stack([split.images[i] for i in range(len(split))]).float() / 255
    for batch in loader(split, varied).epoch(3):
        matrices = varied.origins(batch.keys, SIZE)
        sampled = sample_maps(
            stored[batch.indices], matrices, SIZE, torch.tensor([SIZE[1], SIZE[0]])
        )
        inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))  # borders are filled
        assert (sampled[inner] - shown(batch)[inner]).abs().mean() < 0.01


@dataclass(frozen=True)
class Photographs:
    """Smooth images of several shapes."""

    channels: int = 3
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        coarse = torch.rand(1, 3, 3, 3, generator=generator)
        size = torch.randint(30, 90, (2,), generator=generator).tolist()
        return (255 * F.interpolate(coarse, size, mode="bilinear")[0]).byte()

    def name(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        return ""


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("crop", ["resized", "none"])
def test_maps_of_photographs_are_taken_from_where_the_pixels_come_from(crop: str, fit: Fit) -> None:
    """A stored map that is the squashed photograph gives the student's crop of it."""
    split = Split(Photographs(), torch.arange(20) % 2)
    varied = augment(crop=crop, fit=fit, flip=0.5, scale=(0.3, 1.0))
    own_shape = loader(split, varied, canvas=OwnShape((40, 40)))
    plain = EvalTransform(size=(48, 48), mean=MEAN, std=STD)
    whole = OnCanvas(split.images, own_shape.canvas)
    maps = plain([whole[i] for i in range(20)])
    offline = PrecomputedTeacher(Stored(maps), varied, None)  # type: ignore[arg-type]
    for batch in own_shape.epoch(0):
        seen = offline(batch, Needs(teacher_blocks=(0,))).maps[0]
        shown = F.interpolate(batch.images, (48, 48), mode="bilinear")
        inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
        assert (seen[inner] - shown[inner]).abs().mean() < 0.06


@dataclass(frozen=True)
class Stored:
    """A store of maps that are given."""

    maps: Tensor

    def read(self, indices: Tensor, needs: Needs) -> TeacherOutput:
        del needs
        return TeacherOutput(None, {0: self.maps[indices]})


@pytest.mark.parametrize(
    "policy", [{"rand_augment": "rand-m9-n2-p1"}, {"auto_augment": "svhn"}], ids=str
)
def test_warps_of_policies_move_maps_too(policy: dict[str, Any]) -> None:
    """A bright square on black: its centre moves in the map as it does in the image."""
    pixels = torch.zeros(40, 3, 32, 32, dtype=torch.uint8)
    pixels[:, :, 10:18, 12:20] = 255
    split = from_tensors(pixels, torch.arange(40) % 2).train
    settings: dict[str, Any] = {"size": (32, 32), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    settings |= {"crop": "none", "flip": 0.5, "interpolation": "bilinear"}
    varied = TrainTransform(**settings, **policy)
    batches = TrainLoader(
        split,
        num_classes=2,
        batch_size=40,
        transform=varied,
        mix=None,
        seed=1,
        device=CPU,
        canvas=(32, 32),
    )
    (batch,) = batches.epoch(0)
    matrices = varied.origins(batch.keys, (32, 32))
    only_flipped = TrainTransform(**settings).origins(batch.keys, (32, 32))
    is_warped = (matrices - only_flipped).abs().amax(dim=(1, 2)) > 0.05
    assert is_warped.sum() > 10
    squares = torch.zeros(40, 1, 32, 32)
    squares[:, :, 10:18, 12:20] = 1
    sampled = sample_maps(squares, matrices, (32, 32), torch.tensor([32, 32]))
    seen = sampled[:, 0].flatten(1) > 0.5
    is_plain = batch.images.amax(dim=(1, 2, 3)) > 0.9  # tones not inverted or solarised away
    overlap = []
    for row in range(40):
        bright = batch.images[row].mean(dim=0).flatten() > 0.5
        if is_warped[row] and is_plain[row] and 20 < bright.sum() < 200:
            both = (bright & seen[row]).sum() / (bright | seen[row]).sum()
            overlap.append(both.item())
    assert len(overlap) > 10
    assert sorted(overlap)[len(overlap) // 2] > 0.8


def test_a_stopped_store_goes_on_and_is_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped as by Ctrl-C, after two batches are saved."""
    whole = filled(tmp_path / "whole")
    split = images()
    store = PrecomputedOutputs(tmp_path / "part", key(), len(split))
    monkeypatch.setattr("vitrellis.teachers.precomputed.SAVE_EVERY", 1)

    def stop(done: int, count: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fill(teacher(), as_they_are(split), stop)
    resumed = PrecomputedOutputs(tmp_path / "part", key(), len(split))
    assert not resumed.is_complete
    assert resumed.num_done == 4
    resumed.fill(teacher(), as_they_are(split))
    rows = torch.tensor([9, 0, 5])
    again = PrecomputedOutputs(tmp_path / "part", key(), len(split))
    mine, theirs = again.read(rows, NEEDS), whole.read(rows, NEEDS)
    assert mine.logits is not None
    assert theirs.logits is not None
    assert torch.equal(mine.logits, theirs.logits)
    assert torch.equal(mine.maps[2], theirs.maps[2])


def test_a_full_disk_is_noticed_before_rows_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a memory map that finds no room would end the process, without a word."""

    def full(handle: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("os.posix_fallocate", full)
        with pytest.raises(VitrellisError, match=r"logits\.npy: No space left.*Make room"):
            filled(tmp_path)
    assert not list(tmp_path.iterdir())
    assert filled(tmp_path).is_complete


def test_a_store_of_something_else_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(VitrellisError, match="another teacher, or of other images"):
        PrecomputedOutputs(tmp_path, key(teacher="u"), 10)
    (tmp_path / "map_2.npy").write_bytes(b"x")
    with pytest.raises(VitrellisError, match=r"map_2\.npy: missing or damaged"):
        PrecomputedOutputs(tmp_path, key(), 10).read(torch.tensor([0]), NEEDS)
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(VitrellisError, match=r"features\.json: .*damaged"):
        PrecomputedOutputs(tmp_path, key(), 10)


def test_digests_tell_weights_apart() -> None:
    model = create_model("cifar_resnet8", num_classes=3)
    before = weights_digest(model.state_dict())
    assert before == weights_digest(dict(reversed(model.state_dict().items())))
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] += 1e-6  # type: ignore[union-attr,index,operator]
    assert weights_digest(model.state_dict()) != before


def test_offline_training_equals_online_training_on_images_as_they_are(tmp_path: Path) -> None:
    words = ["demo", *TINY, FEW_IMAGES, "augmentation.crop=none", "augmentation.flip=0"]
    words += ["augmentation.interpolation=bilinear", "input.interpolation=bilinear"]
    run("train", *words, "--out", "runs/online", cwd=tmp_path)
    said = run("features", *words, "--out", "runs/offline", cwd=tmp_path)
    assert "MiB" in said
    assert "teacher.offline=true --out runs/offline" in said
    assert "'objective.locality.student_blocks=[0, 1, 3]'" in said  # can be pasted into a shell
    told = json.loads(
        run("features", *words, "--out", "runs/offline", "-q", "--json", cwd=tmp_path)
    )
    assert told["command"] in said
    (store,) = told["stores"]
    assert f"{store['folder']}: {store['bytes'] / 2**20:.1f} MiB" in said
    run("train", *words, "teacher.offline=true", "--out", "runs/offline", cwd=tmp_path)
    first, second = (
        RunDirectory(tmp_path / "runs" / name).read_metrics() for name in ("online", "offline")
    )
    for mine, theirs in zip(first, second, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-3)
    one, other = (weights(tmp_path / "runs" / name) for name in ("online", "offline"))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value.float(), other[name].float(), rtol=1e-2, atol=1e-3)
    assert len(list((tmp_path / "runs/features").iterdir())) == 1
