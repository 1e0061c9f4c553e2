"""Loss terms, their weights over the epochs, and how they add up."""

from typing import TYPE_CHECKING

from vitrellis.objectives.attention_transfer import AttentionTransferSection
from vitrellis.objectives.cross_entropy import (
    LDAM,
    CrossEntropy,
    CrossEntropySection,
    Focal,
    LabelLoss,
    LogitAdjustment,
    Softmax,
    soft_cross_entropy,
)
from vitrellis.objectives.curriculum import CTKD, CTKDSection
from vitrellis.objectives.decoupled import DKD, DKDSection, decoupled_distillation
from vitrellis.objectives.distillation import (
    KD,
    HardDistillation,
    HardSection,
    KDSection,
    LogitTerm,
    hard_distillation,
    soft_distillation,
)
from vitrellis.objectives.drw import Deferred, DeferredSection
from vitrellis.objectives.gradients import silent_terms
from vitrellis.objectives.locality import LocalityGuidance, LocalitySection, locality_loss
from vitrellis.objectives.long_tail_losses import effective_number_weights
from vitrellis.objectives.multi_level import MLKD, MLKDSection, multi_level_distillation
from vitrellis.objectives.objective import (
    FollowingTerm,
    Head,
    Needs,
    Objective,
    ObjectiveValue,
    Signals,
    TeacherOutput,
    Term,
    WeightedTerm,
)
from vitrellis.objectives.paco import PaCo, PaCoSection, paco_loss
from vitrellis.objectives.pooled_features import FeaturesSection, PooledFeatures, pooled_imitation
from vitrellis.objectives.schedules import (
    Adaptive,
    AdaptiveWeight,
    Constant,
    OffAfter,
    OffAfterWeight,
    Ramp,
    RampWeight,
    WeightSchedule,
    build_weight,
)
from vitrellis.objectives.standardization import limit_gradient, standardize
from vitrellis.objectives.term_sections import TermContext, TermSection
from vitrellis.public_names import names_of

if not TYPE_CHECKING:
    __getattr__ = names_of(__name__)

TERMS: tuple[type[TermSection], ...] = (
    CrossEntropySection,
    PaCoSection,
    LocalitySection,
    KDSection,
    DKDSection,
    MLKDSection,
    CTKDSection,
    HardSection,
    FeaturesSection,
    AttentionTransferSection,
)
"""The terms that a recipe can name, by their sections, in the order in which they are added up."""

__all__ = [
    "CTKD",
    "DKD",
    "KD",
    "LDAM",
    "MLKD",
    "TERMS",
    "Adaptive",
    "AdaptiveWeight",
    "Constant",
    "CrossEntropy",
    "CrossEntropySection",
    "Deferred",
    "DeferredSection",
    "Focal",
    "FollowingTerm",
    "HardDistillation",
    "Head",
    "LabelLoss",
    "LocalityGuidance",
    "LogitAdjustment",
    "LogitTerm",
    "Needs",
    "Objective",
    "ObjectiveValue",
    "OffAfter",
    "OffAfterWeight",
    "PaCo",
    "PooledFeatures",
    "Ramp",
    "RampWeight",
    "Signals",
    "Softmax",
    "TeacherOutput",
    "Term",
    "TermContext",
    "TermSection",
    "WeightSchedule",
    "WeightedTerm",
    "build_weight",
    "decoupled_distillation",
    "effective_number_weights",
    "hard_distillation",
    "limit_gradient",
    "locality_loss",
    "multi_level_distillation",
    "paco_loss",
    "pooled_imitation",
    "silent_terms",
    "soft_cross_entropy",
    "soft_distillation",
    "standardize",
]
