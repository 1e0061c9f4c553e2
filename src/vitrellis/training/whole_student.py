"""The whole weights of a student that several processes share in parts (FSDP2)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class WholeStudent:
    """A copy of a sharded student with whole weights, which is validated and exported.

    Args:
        student: The student, before it is sharded.
    """

    def __init__(self, student: nn.Module) -> None:
        self.module = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def update(self, student: nn.Module) -> nn.Module:
        """Gathers the weights of the sharded student; all processes take part.

        Args:
            student: The student, sharded.

        Returns:
            The copy.
        """
        copies = self.module.state_dict()
        value: Any
        for name, value in student.state_dict().items():
            copies[name].copy_(value.full_tensor() if hasattr(value, "full_tensor") else value)
        return self.module
