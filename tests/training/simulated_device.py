"""A device on which torch has no float64, as Apple's GPUs: simulated, because CI has none.

Tensors on it hold a tensor on the CPU, and say that they are on "meta", the only device type that
torch lets every machine name. Whatever would be float64 there is refused with the words of MPS, and
so is an operation on tensors of both devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from lightning.fabric import Fabric
from lightning.fabric.accelerators import CPUAccelerator
from lightning.fabric.strategies import SingleDeviceStrategy
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from vitrellis import devices

DEVICE = torch.device("meta")

_REFUSAL = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it"
_GRAPH_CHECK = "_accelerator_graph_capture_health_check"  # asks for CUDA, which is not there
_COPIES = {
    torch.ops.aten._to_copy.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index.Tensor,
}
"""Operations between devices, which torch allows."""


class OnDevice(torch.Tensor):
    """A tensor on the simulated device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, dtype=held.dtype, device=DEVICE, strides=held.stride()
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, meta: Any, size: Any, stride: Any) -> OnDevice:
        return OnDevice(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _compute(func, args, kwargs or {})


class _Simulation(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [
        value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)
    ]
    ours = [value for value in given if isinstance(value, OnDevice)]
    wanted = kwargs.get("device")
    is_here = bool(ours) if wanted is None else torch.device(wanted).type == DEVICE.type
    if any(value.dtype == torch.float64 for value in ours):
        raise TypeError(_REFUSAL)
    others = [value for value in given if value.ndim and not isinstance(value, OnDevice)]
    if ours and others and func not in _COPIES:
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device")
    if is_here and wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    result = func(*pytree.tree_map(_held, args), **pytree.tree_map(_held, kwargs))
    if not is_here:
        return result
    return pytree.tree_map(lambda value: _on_device(value, ours), result)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _on_device(value: Any, ours: list[OnDevice]) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.float64:
        raise TypeError(_REFUSAL)
    same = next((tensor for tensor in ours if tensor.held is value), None)  # changed in place
    return OnDevice(value) if same is None else same


@contextmanager
def simulated_device() -> Iterator[None]:
    """Lets runs within the block train on the simulated device."""

    def fabric(**settings: Any) -> Fabric:
        return Fabric(strategy=SingleDeviceStrategy(DEVICE), plugins=settings["plugins"])

    with (
        mock.patch.object(devices, "WITHOUT_FLOAT64", {DEVICE.type}),
        mock.patch("vitrellis.assembly.launch.Fabric", fabric),
        mock.patch.object(CPUAccelerator, "setup_device"),
        mock.patch.object(torch.optim.Optimizer, _GRAPH_CHECK, create=True),
        mock.patch("torch.optim.adam._device_dtype_check_for_fused"),  # MPS has fused kernels
        mock.patch.object(torch, "get_device_module"),  # whose seed the simulation has no use for
        _Simulation(),  # type: ignore[no-untyped-call]
    ):
        yield
