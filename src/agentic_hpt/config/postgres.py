"""Addresses of PostgreSQL, as libpq, SQLAlchemy and MLflow want them."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from agentic_hpt.config.masking import mask_secrets
from agentic_hpt.errors import ConfigError

MLFLOW_SCHEMA = "hpt_mlflow"
"""MLflow's tables have a schema of their own beside the ledger's, so that no name is taken twice."""
_SCHEME = "postgresql://"
FORM = "use postgresql://host:5432/database, with user@ before the host"
"""How such an address is written: no user stands in the form itself, where it would be masked."""
_SCHEMES = ("postgres://", _SCHEME, "postgresql+psycopg://")
# A host that vanishes without a word is noticed within half a minute; by default that takes two hours.
_MANNERS = {
    "application_name": "agentic-hpt",
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


def is_postgres(url: str) -> bool:
    """Say whether an address, as `postgres_url` gives it, is one of PostgreSQL."""
    return url.startswith(_SCHEME)


def postgres_url(text: str, where: str) -> str | None:
    """Give an address of PostgreSQL as libpq takes it, with time limits where it has none; `None` for another store.

    Raises `ConfigError` for one that libpq would read otherwise than it is meant.
    """
    scheme = next((known for known in _SCHEMES if text.startswith(known)), None)
    if scheme is None:
        return None
    url = _SCHEME + text.removeprefix(scheme)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{where}: {mask_secrets(text)!r} is no address: {error}", FORM) from None
    if text.count("@") > parts.netloc.count("@") or parts.netloc.count("@") > 1 or "#" in text:
        # not shown: what is a password and what a host can't be told apart
        raise ConfigError(
            f"{where}: the address of PostgreSQL can't be read: it has '@' or '#' where it must not",
            "in a name or password write %40 for '@', %3A for ':', %2F for '/', %3F for '?', %23 for '#'",
        )
    try:
        _ = parts.port
    except ValueError:
        raise ConfigError(f"{where}: the port in the address of PostgreSQL is no number up to 65535", FORM) from None
    query = dict(parse_qsl(parts.query))
    if parts.path in ("", "/") and not query.keys() & {"dbname", "service"}:
        raise ConfigError(f"{where}: {mask_secrets(text)!r} names no database", FORM)
    return _with_query(url, {**_MANNERS, **query})


def for_sqlalchemy(url: str) -> str:
    """Give an address as SQLAlchemy takes it, for the driver that is installed."""
    return f"postgresql+psycopg://{url.removeprefix(_SCHEME)}"


def for_mlflow(url: str) -> str:
    """Give an address as MLflow takes it, in its own schema of the same database."""
    query = dict(parse_qsl(urlsplit(url).query))
    options = f"{query.get('options', '')} -csearch_path={MLFLOW_SCHEMA}".strip()
    return for_sqlalchemy(_with_query(url, {**query, "options": options}))


def for_libpq(url: str) -> str:
    """Give an address of PostgreSQL as libpq takes it, from one of SQLAlchemy."""
    return _SCHEME + url.partition("://")[2]


def shown(url: str) -> str:
    """Give a store's address for people: without secrets, and one of PostgreSQL without settings."""
    return mask_secrets(url.partition("?")[0] if url.startswith("postgres") else url)


def without_password(url: str, text: str) -> str:
    """Give `text` with the address's password replaced by `***`."""
    held = urlsplit(url).password
    for secret in {held, unquote(held)} if held else ():
        text = text.replace(secret, "***")
    return mask_secrets(text)


def _with_query(url: str, query: dict[str, str]) -> str:
    return f"{url.partition('?')[0]}?{urlencode(query, quote_via=quote)}"
