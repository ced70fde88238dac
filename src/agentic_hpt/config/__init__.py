"""The one validated description of a study, and the only reader of environment variables."""

from agentic_hpt.config.keys import CoordinatorConfig, LimitsConfig, MlflowConfig, ObjectiveConfig, TransferSource
from agentic_hpt.config.masking import check_study_name, mask_data, mask_paths, mask_secrets
from agentic_hpt.config.postgres import MLFLOW_SCHEMA, for_libpq, is_postgres, shown
from agentic_hpt.config.settings import Settings
from agentic_hpt.config.study import StudyConfig
from agentic_hpt.config.study_file import read_study_file

__all__ = [
    "BRIDGE_AFTER_SECONDS",
    "MLFLOW_SCHEMA",
    "CoordinatorConfig",
    "LimitsConfig",
    "MlflowConfig",
    "ObjectiveConfig",
    "Settings",
    "StudyConfig",
    "TransferSource",
    "check_study_name",
    "for_libpq",
    "is_postgres",
    "mask_data",
    "mask_paths",
    "mask_secrets",
    "read_study_file",
    "shown",
]

BRIDGE_AFTER_SECONDS = 0.05
"""How long a model or a person may take before trials go on without them."""
