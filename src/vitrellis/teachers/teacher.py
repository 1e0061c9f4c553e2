"""A frozen teacher, which takes the student's images in its own normalisation and size.

How we differ from the published code (github.com/lkhl/tiny-transformers): the teacher stays in eval
mode whatever `train()` is called on, and is no part of the module that is trained. A teacher in
train mode, with which the published figures were made, has to be asked for (`mode`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.models import tapped_forward
from vitrellis.objectives import Needs, TeacherOutput

BRIGHTNESS = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in the brightness (ITU-R BT.601)."""


class Teacher(nn.Module):
    """A frozen model, which takes the student's images in its own normalisation and size.

    Args:
        model: Any model that `forward_with_maps` can tap.
        img_size: The size `(H, W)` of its images; the student's images are resized to it.
        channels: The number of channels that it takes. Grey images are repeated for a three-channel
            teacher; a one-channel teacher gets the brightness of colours (ITU-R BT.601).
        mean: The mean of each channel in its own normalisation.
        std: The standard deviation of each channel in its own normalisation.
        student_mean: The mean of each channel in the student's normalisation.
        student_std: The standard deviation of each channel in the student's normalisation.
        resize: The interpolation, which is without antialiasing, as published.
        mode: "eval" always uses the running statistics of batch norms. "train" uses the batch's and
            updates the running ones, to reproduce published figures.
        compiled: Whether to compile the forward pass.
        precision: The precision in which it computes, below float32 by autocast; None for that of
            the caller. Its answers are float32 then.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        img_size: tuple[int, int],
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        student_mean: Sequence[float],
        student_std: Sequence[float],
        resize: Literal["bilinear", "bicubic"] = "bilinear",
        mode: Literal["eval", "train"] = "eval",
        compiled: bool = False,
        precision: Literal["float32", "bfloat16"] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.img_size = img_size
        self.channels = channels
        self.resize = resize
        self.mode = mode
        self.precision = precision
        self._forward_with_maps = tapped_forward(compiled=compiled)
        # x_teacher = (x_student * s_std + s_mean - t_mean) / t_std, folded into one multiply-add
        self.scale: Tensor
        self.shift: Tensor
        self.to_grey: Tensor | None
        shown_mean, shown_std = torch.tensor(student_mean), torch.tensor(student_std)
        to_grey = None
        if len(shown_mean) == 3 and channels == 1:
            brightness = torch.tensor(BRIGHTNESS)
            to_grey = (brightness * shown_std).view(1, 3, 1, 1)
            shown_mean, shown_std = (brightness * shown_mean).sum().view(1), torch.ones(1)
        scale, shift = shown_std / torch.tensor(std), (shown_mean - torch.tensor(mean))
        shift = shift / torch.tensor(std)
        self.same_normalization = bool((scale == 1).all() and (shift == 0).all())
        self.register_buffer("to_grey", to_grey, persistent=False)
        self.register_buffer("scale", scale.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, -1, 1, 1), persistent=False)
        self.train()

    def train(self, mode: bool = True) -> Teacher:
        """Keeps the mode that it was built with, whatever `mode` is."""
        del mode
        return super().train(self.mode == "train")

    @property
    def shown(self) -> str:
        """Its preprocessing of the student's images, in words."""
        height, width = self.img_size
        scale, shift = self.scale.flatten().tolist(), self.shift.flatten().tolist()
        words = (
            f"{height} x {width} pixels, {self.channels} channels, {self.resize}, "
            f"times {scale} plus {shift}"
        )
        return words if self.precision is None else f"{words}, in {self.precision}"

    def view(self, images: Tensor) -> Tensor:
        """The student's images `(B, C, H, W)`, converted to the teacher's channels and size."""
        if images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if self.to_grey is not None:
            images = (images * self.to_grey).sum(dim=1, keepdim=True)
        if not self.same_normalization:
            images = images * self.scale + self.shift
        if images.shape[-2:] != self.img_size:
            images = F.interpolate(images, self.img_size, mode=self.resize, align_corners=False)
        return images if self._dtype == torch.float32 else images.to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        """The type of its weights, in which it computes: a module from Python may be in half."""
        floats = (value.dtype for value in self.model.parameters() if value.is_floating_point())
        return next(floats, torch.float32)

    def _arithmetic(self, device: str) -> AbstractContextManager[object]:
        """The context in which it computes in its precision."""
        if self.precision is None:
            return nullcontext()
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16")

    @torch.no_grad()
    def forward(self, images: Tensor, needs: Needs) -> TeacherOutput:
        """The outputs that the active terms need.

        Args:
            images: The images, `(B, C, H, W)`, normalised for the student.
            needs: The outputs to compute; if there are none, the model is not run.
        """
        if not (needs.teacher_blocks or needs.teacher_logits):
            return TeacherOutput(None, {})
        blocks = needs.teacher_blocks
        with self._arithmetic(images.device.type):
            logits, maps = self._forward_with_maps(self.model, self.view(images), blocks)
        if isinstance(logits, tuple):  # class and distillation head, in train mode
            logits = (logits[0] + logits[1]) / 2
        if self._dtype != torch.float32 or self.precision is not None:
            logits, maps = logits.float(), [of_block.float() for of_block in maps]
        return TeacherOutput(
            logits if needs.teacher_logits else None, dict(zip(blocks, maps, strict=True))
        )


class TeacherClassifier(nn.Module):
    """A teacher as a plain classifier of the student's images, to evaluate it.

    Args:
        teacher: The teacher.
    """

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> Tensor:
        """The logits `(B, K)` of images `(B, C, H, W)` that are normalised for the student."""
        alone = len(images) == 1 and self.teacher.mode == "train"
        for module in self.teacher.modules() if alone else ():
            module.training = False  # a last batch of one image has no statistics of its own
        output: TeacherOutput = self.teacher(images, Needs(teacher_logits=True))
        if alone:
            self.teacher.train()
        assert output.logits is not None
        return output.logits
