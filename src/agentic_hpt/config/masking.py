"""What must not be seen: secrets and paths, cut out of any text; and what may name a study."""

from __future__ import annotations

import os
import re

from agentic_hpt.errors import ConfigError

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ \-]{0,99}")
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)", re.IGNORECASE)
_URL_USERINFO = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.\-]*://)[^/\s'\"]+@")
_URL_QUERY = re.compile(r"([?&][^=&\s]*(?:key|token|secret|password|passwd|pwd)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)
_PATH = re.compile(
    r"""(?P<url>\b(?!file:|sqlite)[A-Za-z][A-Za-z0-9+.\-]+://[^\s"'<>]+)               # not a path: stays
    | (?P<scheme>\b(?:file|sqlite(?:\+\w+)?):///?)/(?!\.{3}/)(?:[^/\s"']+/)+[^/\s"'?#]+
    | (?<=["'])(?:/|[A-Za-z]:[\\/]+|\\\\)[^"'\n]*[\\/][^"'\n\\/]+(?=["'])             # in quotes it may hold spaces
    | \b[A-Za-z]:[\\/]+(?:[^\\/:*?"'<>|\s]+[\\/]+)+[^\\/:*?"'<>|\s]+
    | (?<![\w\\])\\\\(?:[^\\/:*?"'<>|\s]+[\\/]+)+[^\\/:*?"'<>|\s]+
    | (?<![\w./~\-])/(?:[\w.@+~%\-]+/)+[\w.@+~%\-]+                                  # not `1/2`, `n/a`, a lone `/x`
    """,
    re.VERBOSE,
)


def check_study_name(name: object) -> str:
    """Give `name` if it can name a study (and so a folder and an MLflow experiment). Raises `ConfigError`."""
    if not isinstance(name, str) or not _STUDY_NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise ConfigError(
            f"study: {name!r} can't be a study's name",
            "use letters, digits, '.', '_', '-' and inner spaces, at most 100, a letter or digit first",
        )
    return name


def mask_secrets(text: str) -> str:
    """Give `text` with passwords in URLs and the values of secret-looking environment variables replaced by `***`."""
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    text = text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate can be written nowhere
    return _URL_QUERY.sub(r"\1***", _URL_USERINFO.sub(r"\g<scheme>***@", text))


def mask_paths(text: str) -> str:
    """Give `text` with absolute paths of a machine cut to `.../name`; URLs stay as they are."""

    def cut(found: re.Match[str]) -> str:
        name = re.split(r"[\\/]", found[0])[-1]
        return found["url"] or f"{found['scheme'] or ''}.../{name}"

    return _PATH.sub(cut, text)
