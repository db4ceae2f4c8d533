"""The configuration of a training run: typed, read from YAML, every fault reported at once with its place. No torch."""

from optical_dfa.config.file import load_config
from optical_dfa.config.models import (
    AlignmentConfig,
    FeedbackConfig,
    ModelConfig,
    RunConfig,
    TaskConfig,
    TernarizeConfig,
    TrainingConfig,
)

__all__ = [
    "AlignmentConfig",
    "FeedbackConfig",
    "ModelConfig",
    "RunConfig",
    "TaskConfig",
    "TernarizeConfig",
    "TrainingConfig",
    "load_config",
]
