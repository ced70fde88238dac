"""The one validated description of a study, and the only reader of environment variables."""

from agentic_hpt.config.keys import CoordinatorConfig, LimitsConfig, MlflowConfig, ObjectiveConfig, TransferSource
from agentic_hpt.config.masking import check_study_name, mask_paths, mask_secrets
from agentic_hpt.config.settings import Settings
from agentic_hpt.config.study import StudyConfig
from agentic_hpt.config.study_file import read_study_file

__all__ = [
    "BRIDGE_AFTER_SECONDS",
    "CoordinatorConfig",
    "LimitsConfig",
    "MlflowConfig",
    "ObjectiveConfig",
    "Settings",
    "StudyConfig",
    "TransferSource",
    "check_study_name",
    "mask_paths",
    "mask_secrets",
    "read_study_file",
]

BRIDGE_AFTER_SECONDS = 0.05
"""How long a model or a person may take before trials go on without them."""
