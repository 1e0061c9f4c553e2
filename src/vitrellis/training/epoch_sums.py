"""The sums over the images of an epoch, from which its log line is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lightning.fabric import Fabric
from torch import Tensor

from vitrellis.devices import longest_float


class EpochSums:
    """Adds up losses and right answers on the device, without waiting for it.

    Args:
        fabric: The processes and their devices.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._sums: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Begins an epoch."""
        self._sums = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds the values of a part of a batch of this process, scalars."""
        for name, value in values.items():
            before = self._sums.get(name, 0)
            self._sums[name] = value.to(longest_float(value.device)) + before

    def means(self) -> dict[str, float]:
        """The means per image over the epoch and all processes; `images` counts the images."""
        names = sorted(self._sums)
        stacked = torch.stack([self._sums[name] for name in names])
        sums = self._fabric.all_reduce(stacked, reduce_op="sum")
        assert isinstance(sums, Tensor)
        by_name = dict(zip(names, sums.cpu().tolist(), strict=True))
        return {name: value / by_name["images"] for name, value in by_name.items()}

    def of_all(self) -> dict[str, list[float]]:
        """The sums of each process, for a checkpoint; all processes call this together."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        mine = torch.stack([self._sums[name] for name in names])
        gathered = self._fabric.all_gather(mine)
        assert isinstance(gathered, Tensor)
        columns = gathered.reshape(-1, len(names)).T.tolist()
        return dict(zip(names, columns, strict=True))

    def restore(self, kept: Mapping[str, Sequence[float] | float]) -> None:
        """Takes up the sums of a checkpoint.

        If it was written by more or fewer processes, the first one takes those of all.

        Args:
            kept: The sums of each process, or, from older versions, those of the first one.
        """
        device, rank = self._fabric.device, self._fabric.global_rank
        for name, values in kept.items():
            sums = [values] if isinstance(values, float | int) else values
            if len(sums) == self._fabric.world_size:
                mine = sums[rank]
            else:
                mine = sum(sums) if rank == 0 else 0.0
            self._sums[name] = torch.tensor(mine, dtype=longest_float(device), device=device)
