"""A new model is one file, and nothing else has to name it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import vitrellis

NEW_MODEL = """
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from vitrellis.models.cifar_resnet import CifarResNet

default_cfgs = generate_default_cfgs({"tinything_a": {"input_size": (3, 16, 16)}})


@register_model
def tinything_a(pretrained=False, **kwargs):
    return build_model_with_cfg(CifarResNet, "tinything_a", pretrained, depth=8, **kwargs)
"""


def test_a_new_file_is_found(tmp_path: Path) -> None:
    package = tmp_path / "vitrellis"
    shutil.copytree(Path(vitrellis.__file__).parent, package)
    (package / "models" / "tinything.py").write_text(NEW_MODEL)

    # to be listed by the sweep, it is found and built
    sweep = ("tests/models/test_contracts.py", "--collect-only", "-q", "-p", "no:cacheprovider")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *sweep, "-o", f"pythonpath={tmp_path}"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "test_exports_with_a_free_batch_size[tinything_a]" in ended.stdout
