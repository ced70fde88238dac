"""Where things are kept, and the only reader of environment variables beside `masking`."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from agentic_hpt.config.keys import MlflowConfig
from agentic_hpt.config.masking import mask_secrets
from agentic_hpt.config.postgres import FORM, for_mlflow, is_postgres, postgres_url
from agentic_hpt.errors import ConfigError

_UNFIT = re.compile(r"[?#]|%[0-9A-Fa-f]{2}")
"""What an address takes for something else than a part of the path."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are kept: the home folder and the addresses that the environment may set.

    The addresses may hold passwords: show them by `mask_secrets` or `shown` only.
    """

    home: Path
    ledger_url: str
    tracking_uri: str | None

    @classmethod
    def load(cls, home: str | Path | None = None) -> Settings:
        """Read the settings. An explicit `home` wins over `AGENTIC_HPT_HOME`, which wins over `hpt-home`."""
        if not isinstance(home, str | os.PathLike | None):
            raise ConfigError(f"home: {home!r:.80} is no folder", "give its path")
        folder = Path(home or os.environ.get("AGENTIC_HPT_HOME") or "hpt-home").expanduser().absolute()
        if found := _UNFIT.search(str(folder)):
            raise ConfigError(
                f"the home {folder} has {found[0]!r} in its path",
                "addresses of stores can't hold it; rename the folder",
            )
        given = os.environ.get("AGENTIC_HPT_LEDGER") or f"sqlite:///{folder / 'ledger.db'}"
        ledger = postgres_url(given, "AGENTIC_HPT_LEDGER") or given
        if not (is_postgres(ledger) or ledger.startswith("sqlite:///")):
            raise ConfigError(
                f"AGENTIC_HPT_LEDGER: {mask_secrets(given)!r} is no store that can be used",
                f"{FORM}, or sqlite:////path/ledger.db",
            )
        return cls(folder, ledger, os.environ.get("MLFLOW_TRACKING_URI") or None)

    @property
    def checkpoints(self) -> str:
        """The address of the graph's checkpoint store: the ledger's database, if that is PostgreSQL."""
        return self.ledger_url if is_postgres(self.ledger_url) else f"sqlite:///{self.home / 'checkpoints.db'}"

    @property
    def mlflow_store(self) -> str:
        """The tracking URI used when none is set: the ledger's database, if that is PostgreSQL."""
        if is_postgres(self.ledger_url):
            return for_mlflow(self.ledger_url)
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def in_files(self) -> Settings:
        """Give the settings of the same home without a database: its own files."""
        return replace(self, ledger_url=f"sqlite:///{self.home / 'ledger.db'}")

    def artifacts(self, folder: str) -> Path:
        """The folder of one study's files. Raises `ConfigError` for a name that leads elsewhere."""
        if folder in ("", ".", "..") or Path(folder).name != folder:
            raise ConfigError(f"{folder!r} can't be the name of a study's folder", "the ledger was tampered with")
        return self.home / "artifacts" / folder

    def resolve_tracking_uri(self, config: MlflowConfig) -> str:
        """Give the study file's URI, else the environment's, else the home's own store."""
        return config.tracking_uri or self.tracking_uri or self.mlflow_store

    def has_variable(self, name: str) -> bool:
        """Say whether an environment variable is set and not empty."""
        return bool(os.environ.get(name))

    def create(self) -> None:
        """Make the home, for its owner alone. Raises `ConfigError` when it can't be written.

        In a home that was there before, and is open to others, at least the ledger and the checkpoints are the owner's:
        addresses of stores may hold passwords. Files that are there are never opened: SQLite's locks on a file are gone
        as soon as the process closes it anywhere, and another process then takes the journal away under its writer.
        """
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.home / "artifacts").mkdir(exist_ok=True)
            probe = self.home / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
            is_open = self.home.stat().st_mode & 0o077
            for address in {self.ledger_url, self.checkpoints} if is_open else ():
                file = Path(address.removeprefix("sqlite:///"))
                if file.parent == self.home:
                    with contextlib.suppress(FileExistsError):
                        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise ConfigError(
                f"the home {self.home} can't be written: {error.strerror or error}",
                "choose another with --home or AGENTIC_HPT_HOME",
            ) from None
