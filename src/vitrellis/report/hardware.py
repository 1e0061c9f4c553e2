"""The hardware of this machine, in a line."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def describe_hardware() -> str:
    """The processor, the GPU if there is one, the threads, and the version of torch."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{name}, {os.cpu_count()} cores{gpu}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
