"""Where things are kept, and the only reader of environment variables beside `masking`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agentic_hpt.config.keys import MlflowConfig
from agentic_hpt.config.masking import mask_secrets
from agentic_hpt.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are kept: the home folder and the addresses that the environment may set."""

    home: Path
    ledger_url: str
    tracking_uri: str | None

    @classmethod
    def load(cls, home: str | Path | None = None) -> Settings:
        """Read the settings. An explicit `home` wins over `AGENTIC_HPT_HOME`, which wins over `hpt-home`."""
        folder = Path(home or os.environ.get("AGENTIC_HPT_HOME") or "hpt-home").expanduser().absolute()
        if "?" in str(folder) or "#" in str(folder):
            raise ConfigError(f"the home {folder} has '?' or '#' in its path", "addresses of stores can't hold these")
        ledger = os.environ.get("AGENTIC_HPT_LEDGER") or f"sqlite:///{folder / 'ledger.db'}"
        if not ledger.startswith("sqlite:///"):
            raise ConfigError(
                f"AGENTIC_HPT_LEDGER: {mask_secrets(ledger)!r} is not supported yet",
                "use a URL of the form sqlite:////path/ledger.db",
            )
        return cls(folder, ledger, os.environ.get("MLFLOW_TRACKING_URI") or None)

    @property
    def checkpoints(self) -> Path:
        """The graph's checkpoint store."""
        return self.home / "checkpoints.db"

    @property
    def mlflow_store(self) -> str:
        """The tracking URI used when none is set."""
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def artifacts(self, folder: str) -> Path:
        """The folder of one study's files."""
        return self.home / "artifacts" / folder

    def resolve_tracking_uri(self, config: MlflowConfig) -> str:
        """Give the study file's URI, else the environment's, else the home's own store."""
        return config.tracking_uri or self.tracking_uri or self.mlflow_store

    def has_variable(self, name: str) -> bool:
        """Say whether an environment variable is set and not empty."""
        return bool(os.environ.get(name))

    def create(self) -> None:
        """Make the home. Raises `ConfigError` when it can't be written."""
        try:
            (self.home / "artifacts").mkdir(parents=True, exist_ok=True)
            probe = self.home / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"the home {self.home} can't be written: {error.strerror or error}",
                "choose another with --home or AGENTIC_HPT_HOME",
            ) from None
