"""An ONNX file of a trained model, in float32, float16 or int8."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrellis.errors import VitrellisError
from vitrellis.export.description import Description
from vitrellis.export.graph import IMAGES, OUTPUTS

_NORMALIZATION = ("Cast", "Mul", "Add")
"""The first operations of a graph, in their order."""
_FULL_PRECISION = ("Exp", "TopK")
"""Operations of which float16 holds too small a range, or that onnxruntime has in float32 only."""


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    description: Description,
    calibration: Sequence[Tensor] = (),
) -> None:
    """Writes an ONNX file with the description in its metadata.

    Args:
        program: From `export_program`.
        path: The file.
        description: Says, among others, the precision.
        calibration: For int8, uint8 batches `(B, C, H, W)` of training images, from which the
            ranges of the numbers inside are measured.

    Raises:
        VitrellisError: If the packages of `vitrellis[onnx]` are not installed.
    """
    require_onnx()
    import onnx

    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain = Path(folder) / "model.onnx"
        torch.onnx.export(
            program,
            (),
            plain,
            input_names=[IMAGES],
            output_names=list(OUTPUTS),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        model = onnx.load(plain)
        _name_sides(model)
        if description.precision == "float16":
            model = _half(model)
        elif description.precision == "int8":
            model = _int8(model, calibration, Path(folder))
        metadata = {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in description.to_json().items()
        }
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, path)


def require_onnx() -> None:
    """Checks that what writes and runs ONNX files is installed.

    Raises:
        VitrellisError: If a package is missing, with the command that installs it.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise VitrellisError(
            f"{error.name} is not installed, which ONNX files need: pip install 'vitrellis[onnx]'"
        ) from error


def _name_sides(model: Any) -> None:
    """Calls the free sides batch, height and width; torch calls them s77 and the like."""
    graph = model.graph
    sides = graph.input[0].type.tensor_type.shape.dim
    names = {
        side.dim_param: name
        for side, name in zip(sides, ("batch", "channels", "height", "width"), strict=True)
        if side.dim_param
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(
                    r"\w+", lambda word: names.get(word[0], word[0]), side.dim_param
                )


def _half(model: Any) -> Any:
    """Weights and numbers in float16; input and output, and both ends of the graph, as before."""
    from onnxruntime.transformers.float16 import (
        DEFAULT_OP_BLOCK_LIST,
        convert_float_to_float16,
    )

    return convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FULL_PRECISION],
        node_block_list=[*_normalization_nodes(model), *_softmax_nodes(model)],
    )


def _normalization_nodes(model: Any) -> list[str]:
    """The names of the nodes from the input to the normalised images."""
    names, value = [], IMAGES
    for operation in _NORMALIZATION:
        (node,) = [
            node for node in model.graph.node if value in node.input and node.op_type == operation
        ]
        names.append(node.name)
        value = node.output[0]
    return names


def _softmax_nodes(model: Any) -> list[str]:
    """The name of the node that makes probabilities of the logits."""
    return [node.name for node in model.graph.node if OUTPUTS[1] in node.output]


def _int8(model: Any, calibration: Sequence[Tensor], folder: Path) -> Any:
    """Weights, and the numbers that they meet, in 8 bits, as onnxruntime advises for each kind.

    Transformers: linear layers, whose inputs' ranges are measured anew in each batch. CNNs: all
    convolutions, for whose inputs the ranges are measured once, on training images.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationMethod
    from onnxruntime.quantization.quant_utils import QuantType
    from onnxruntime.quantization.shape_inference import quant_pre_process

    del model.graph.value_info[:]  # quantization transposes weights, and would contradict it
    plain, prepared, done = (folder / name for name in ("a.onnx", "b.onnx", "c.onnx"))
    onnx.save(model, plain)
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    # 7 bits for weights: processors without VNNI instructions overflow with 8
    common: dict[str, Any] = {"per_channel": True, "reduce_range": True}
    if any(node.op_type == "MatMul" for node in model.graph.node):
        plain_model = onnx.load(prepared)
        del plain_model.graph.value_info[:]
        quantize_dynamic(plain_model, done, op_types_to_quantize=["MatMul", "Gemm"], **common)
    else:
        quantize_static(
            prepared,
            done,
            _Batches(calibration),
            op_types_to_quantize=["Conv", "Gemm"],
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.Percentile,
            **common,
        )
    return onnx.load(done)


class _Batches:
    """Batches for onnxruntime's calibration, which asks for them one by one."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._left, None)
        return None if batch is None else {IMAGES: batch.numpy()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.get_next, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' own lines and warnings from the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
