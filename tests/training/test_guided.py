"""Guided steps against the published implementation's, and a teacher that stays what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tests.parity.rule import fill_by_rule, reference_input
from vitrellis.models import create_model, load_reference_weights
from vitrellis.objectives import (
    CrossEntropy,
    Distillation,
    LocalityGuidance,
    Needs,
    Objective,
    Term,
)
from vitrellis.objectives.weights import Constant
from vitrellis.training.guided import Evidence, GuidedStudent, Teacher

VECTORS = json.loads((Path(__file__).parents[1] / "parity" / "training.json").read_text())
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
