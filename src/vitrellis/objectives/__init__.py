"""Loss terms, their weights over the epochs, and how they add up."""

from vitrellis.objectives.classification import CrossEntropy, soft_cross_entropy
from vitrellis.objectives.distillation import (
    Distillation,
    hard_distillation,
    soft_distillation,
    standardize,
    tame_gradient,
)
from vitrellis.objectives.locality import LocalityGuidance, locality_loss
from vitrellis.objectives.objective import Objective, ObjectiveValue, Term
from vitrellis.objectives.signals import Needs, Signals
from vitrellis.objectives.weights import Adaptive, Constant, OffAfter, Ramp, WeightSchedule

__all__ = [
    "Adaptive",
    "Constant",
    "CrossEntropy",
    "Distillation",
    "LocalityGuidance",
    "Needs",
    "Objective",
    "ObjectiveValue",
    "OffAfter",
    "Ramp",
    "Signals",
    "Term",
    "WeightSchedule",
    "hard_distillation",
    "locality_loss",
    "soft_cross_entropy",
    "soft_distillation",
    "standardize",
    "tame_gradient",
]
