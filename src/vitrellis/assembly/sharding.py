"""FSDP2: devices that share one student, each with a part of its weights, gradients and moments.

The published interface is `torch.distributed.fsdp.fully_shard` (Zhao et al., "PyTorch FSDP:
Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023, arXiv 2304.11277; FSDP2 shards each
parameter by its first dimension). Each block is gathered for its forward and its backward pass, and
the rest together. Checkpoints hold whole tensors, as those of one device do, so that a run can be
continued on any number of devices, with this strategy or without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh  # noqa: TID251
from torch.distributed.fsdp import fully_shard  # noqa: TID251
from torch.distributed.tensor import DTensor, distribute_tensor  # noqa: TID251
from torch.optim import Optimizer

from vitrellis.errors import UsageError
from vitrellis.models.support.token_reduction import TokenReduction
from vitrellis.objectives import FollowingTerm, Objective
from vitrellis.recipe import Recipe


class ShardedStrategy(ModelParallelStrategy):
    """Fabric's strategy for FSDP2, with checkpoints that any strategy reads.

    Lightning's own checkpoints name the optimizer's moments differently, and those of other
    strategies are read in an order of the parameters that is not that of our parameter groups.

    Args:
        processes: The number of all processes.
    """

    def __init__(self, processes: int) -> None:
        super().__init__(_shard, data_parallel_size=processes, tensor_parallel_size=1)

    def save_checkpoint(
        self,
        path: str | os.PathLike[str],
        state: dict[str, Any],
        storage_options: object | None = None,
        filter: dict[str, Callable[[str, Any], bool]] | None = None,
    ) -> None:
        """Writes a checkpoint from process 0; the others take part in gathering it.

        Args:
            path: The file.
            state: The state, with modules and optimizers.
            storage_options: Not used.
            filter: Not used.
        """
        assert storage_options is None
        assert not filter
        content = {
            name: _gathered(
                part.state_dict() if hasattr(part, "state_dict") else part, self.is_global_zero
            )
            for name, part in state.items()
        }
        if self.is_global_zero:
            torch.save(content, path)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        state: nn.Module | Optimizer | dict[str, Any] | None = None,
        strict: bool = True,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Restores a state in place; each process takes its part of each tensor.

        Args:
            path: The file.
            state: The state, with modules and optimizers.
            strict: Not used: names have to be the same.
            weights_only: Whether to read tensors and plain values alone.

        Returns:
            What the file holds beyond the state.

        Raises:
            KeyError: If the file lacks a part of the state.
            RuntimeError: If a module has other parameters.
        """
        assert isinstance(state, dict)
        content: dict[str, Any] = torch.load(
            Path(path), map_location="cpu", weights_only=weights_only, mmap=True
        )
        for name, part in list(state.items()):
            saved = content.pop(name)
            if isinstance(part, nn.Module):
                part.load_state_dict(_like(saved, part.state_dict()))
            elif isinstance(part, Optimizer):
                part.load_state_dict(_moments_like(saved, part))
            elif hasattr(part, "load_state_dict"):
                part.load_state_dict(saved)
            else:
                state[name] = saved
        return content


def check_can_be_sharded(recipe: Recipe, student: nn.Module, objective: Objective) -> None:
    """Makes sure that FSDP2 can share a student and what its terms learn, if the recipe wants it.

    Raises:
        UsageError: If a term follows the student, or a parameter is a single number.
    """
    if recipe.machine.strategy != "fsdp":
        return
    following = [term.name for term in objective.all_terms() if isinstance(term, FollowingTerm)]
    if following:
        raise UsageError(
            f"machine.strategy: fsdp does not go with the term {following[0]!r}, which keeps an "
            "average of the student. Use machine.strategy=ddp"
        )
    parameters = [*student.named_parameters(), *objective.named_parameters()]
    numbers = [name for name, parameter in parameters if parameter.ndim == 0]
    if numbers:
        raise UsageError(
            f"machine.strategy: fsdp cannot share {numbers[0]}, which is a single number. Use "
            "machine.strategy=ddp"
        )


def _shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shards each block, and all other parameters together, in place.

    Blocks that reduce tokens are not called as a whole, so there is nothing that would gather them.
    """
    data_parallel = mesh["data_parallel"]
    parents = list(module.modules())
    if any(isinstance(parent, TokenReduction) for parent in parents):
        parents = []
    for parent in parents:
        blocks = getattr(parent, "blocks", None)
        for block in blocks if isinstance(blocks, nn.ModuleList | nn.Sequential) else ():
            fully_shard(block, mesh=data_parallel)
    fully_shard(module, mesh=data_parallel)
    return module


def _gathered(value: Any, keep: bool) -> Any:
    """The value with whole tensors on the CPU in place of sharded ones; None for these if not kept.

    All processes take part, and only the one that writes needs the memory.
    """
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: _gathered(part, keep) for key, part in value.items()}
    if isinstance(value, list):
        return [_gathered(part, keep) for part in value]
    return value


def _like(saved: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A module's saved state, sharded where its own is."""
    return {name: _part(value, own.get(name)) for name, value in saved.items()}


def _moments_like(saved: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's saved state, its moments sharded as their parameters are."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for number, moments in saved["state"].items():
        parameter = parameters[number]
        state[number] = {
            name: _part(value, parameter) if value.shape == parameter.shape else value  # the step
            for name, value in moments.items()
        }
    return {**saved, "state": state}


def _part(value: Any, own: object) -> Any:
    """This process's part of a tensor, if its own tensor is sharded."""
    if not isinstance(own, DTensor):
        return value
    moved = value.to(own.device, own.dtype)
    return distribute_tensor(moved, own.device_mesh, own.placements, src_data_rank=None)
