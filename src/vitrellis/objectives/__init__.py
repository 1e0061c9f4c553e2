"""Loss terms, their weights over the epochs, and how they add up."""

from vitrellis.objectives.cross_entropy import (
    LDAM,
    CrossEntropy,
    Focal,
    LabelLoss,
    LogitAdjustment,
    Softmax,
    soft_cross_entropy,
)
from vitrellis.objectives.curriculum import CTKD
from vitrellis.objectives.decoupled import DKD, decoupled_distillation
from vitrellis.objectives.distillation import (
    KD,
    HardDistillation,
    LogitTerm,
    hard_distillation,
    soft_distillation,
)
from vitrellis.objectives.drw import Deferred
from vitrellis.objectives.locality import LocalityGuidance, locality_loss
from vitrellis.objectives.long_tail_losses import effective_number_weights
from vitrellis.objectives.multi_level import MLKD, multi_level_distillation
from vitrellis.objectives.objective import (
    FollowingTerm,
    Needs,
    Objective,
    ObjectiveValue,
    Signals,
    TeacherOutput,
    Term,
)
from vitrellis.objectives.paco import PaCo, paco_loss
from vitrellis.objectives.pooled_features import PooledFeatures, pooled_imitation
from vitrellis.objectives.schedules import Adaptive, Constant, OffAfter, Ramp, WeightSchedule
from vitrellis.objectives.standardization import limit_gradient, standardize

__all__ = [
    "CTKD",
    "DKD",
    "KD",
    "LDAM",
    "MLKD",
    "Adaptive",
    "Constant",
    "CrossEntropy",
    "Deferred",
    "Focal",
    "FollowingTerm",
    "HardDistillation",
    "LabelLoss",
    "LocalityGuidance",
    "LogitAdjustment",
    "LogitTerm",
    "Needs",
    "Objective",
    "ObjectiveValue",
    "OffAfter",
    "PaCo",
    "PooledFeatures",
    "Ramp",
    "Signals",
    "Softmax",
    "TeacherOutput",
    "Term",
    "WeightSchedule",
    "decoupled_distillation",
    "effective_number_weights",
    "hard_distillation",
    "limit_gradient",
    "locality_loss",
    "multi_level_distillation",
    "paco_loss",
    "pooled_imitation",
    "soft_cross_entropy",
    "soft_distillation",
    "standardize",
]
