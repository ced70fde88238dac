"""What must not be seen: secrets and paths, cut out of any text; and what may name a study."""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote

from agentic_hpt.errors import ConfigError

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ \-]{0,99}")
_SECRET_VARIABLE = re.compile(
    r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|_PASS$|_PWD$|_AUTH$", re.IGNORECASE
)
_SHORTEST = 6
"""Shorter values are words like any other: to cut them out would cut up the text."""
_LONGEST_LINE = 16
"""A secret of several lines (a private key) is known by each line that is as long."""
# Up to the last `@`, since who writes a password into a URL often forgets to encode what is in it.
_URL_USERINFO = re.compile(r"(?<=[A-Za-z0-9])://(?:[^\s/:@\"]{0,200}:[^\s\"]{0,500}|[^/\s'\"]{1,500})@")
_URL_PASSWORD = re.compile(r"[^\s:]+://[^:@/\s]*:(?P<password>\S+)@\S*")
_URL_QUERY = re.compile(
    r"([?&][^=&\s]{0,40}(?:key|token|secret|password|passwd|pwd|signature|credential)[^=&\s]{0,40}=)[^&\s'\"]+",
    re.IGNORECASE,
)
_ASSIGNING = re.compile(r"(?<=[delnstyDELNSTY])(?P<end>\\?[\"']?)\s*[=:]\s*")
_VALUE = re.compile(
    r"""(?P<quote>\\?["'])(?:[^"'\\\n]|\\[^"'\n]|(?!(?P=quote))\\?["'])+(?P=quote)
    |(?!(?:[Nn]one|null|[Tt]rue|[Ff]alse)\b)[^\s"',;&(){}\[\]\\]{4,}""",
    re.VERBOSE,
)
_TELLING = re.compile(
    r"""(?:pass(?:word|wd|phrase)|pwd|secret|(?:api|access|secret|private|account|encryption)[_\- ]?key
    |(?:access|auth|api|refresh|session|bearer)[_\- ]?token|(?-i:[A-Z0-9]_(?:KEY|TOKEN|SECRET|PASS|CREDENTIALS?)))\Z""",
    re.VERBOSE | re.IGNORECASE,
)
_LONGEST_NAME = 20
# What a secret looks like wherever it stands: of OpenAI and others, Hugging Face, GitHub, GitLab, AWS, Google, Slack,
# LangSmith, Databricks; a signed token; what follows `Authorization:` or `Bearer`; a private key.
_MARKS = ("sk-", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "akia", "asia", "aiza", "xox")
_MORE_MARKS = ("lsv2_", "dapi", "eyj", "-----begin", "bearer", "authorization")
"""What stands in each of the shapes, in small letters: to look for these first is fast."""
_SHAPES = re.compile(
    r"""(?P<kept>\bauthorization["']?\s*[:=]\s*["']?(?:(?:basic|bearer|token)\s+)?|\bbearer\s+(?=[^\s"']{16}))[^\s"',]+
    |(?-i:\bsk-(?=[A-Za-z_\-]{0,100}\d)[\w\-]{8,}|\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}
    |\bglpat-[\w\-]{16,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}|\bAIza[\w\-]{30,}|\bxox[abprs]-[\w\-]{10,}|\blsv2_\w{20,}
    |\bdapi[0-9a-f]{32}|\beyJ[\w\-]{8,}\.[\w\-]{8,}(?:\.[\w\-]*)?
    |-----BEGIN\ [A-Z ]{0,40}PRIVATE\ KEY-----(?:(?!-----).){0,20000}(?:-----END\ [A-Z ]{0,40}PRIVATE\ KEY-----)?)""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
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
    """Give `text` with what looks like a secret replaced by `***`.

    These are: the values of environment variables with telling names, and passwords in the URLs that others hold, also
    percent-encoded or escaped; users and passwords in URLs, and telling parts of their queries; values that are
    assigned to telling names (`password=...`, `"api_key": "..."`); keys of a known shape (`sk-...`), and tokens.
    """
    if not text:
        return text
    for secret in _secrets_of_environment():
        for form in _forms(secret):
            text = text.replace(form, "***")
    text = text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate can be written nowhere
    text = _URL_QUERY.sub(r"\1***", _URL_USERINFO.sub("://***@", text))
    small = text.lower()
    if any(mark in small for mark in (*_MARKS, *_MORE_MARKS)):
        text = _SHAPES.sub(lambda found: f"{found['kept'] or ''}***", text)
    return _without_assigned(text)


def mask_data(value: object) -> object:
    """Give the same data with secrets masked in every string."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {key: mask_data(entry) for key, entry in value.items()}
    return [mask_data(entry) for entry in value] if isinstance(value, list) else value


def _secrets_of_environment() -> set[str]:
    found: set[str] = set()
    for name, value in os.environ.items():
        if len(value) < _SHORTEST:
            continue
        if _SECRET_VARIABLE.search(name):
            found.add(value)
        if "://" in value and (url := _URL_PASSWORD.fullmatch(value)) and len(url["password"]) >= _SHORTEST:
            found.add(url["password"])
    return found


@lru_cache(maxsize=256)
def _forms(secret: str) -> tuple[str, ...]:
    """Give the ways in which a secret may be written, the longest first."""
    plain = {secret, secret.strip(), unquote(secret)}
    plain |= {line.strip() for line in secret.splitlines() if len(line.strip()) >= _LONGEST_LINE}
    forms = set(plain)
    for text in plain:
        forms |= {quote(text, safe=""), quote(text), quote_plus(text), repr(text)[1:-1]}
        forms |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return tuple(sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True))


def _without_assigned(text: str) -> str:
    """Mask what is assigned to telling names; in JSON only text is, so that it stays JSON."""
    parts, done = list[str](), 0
    for sign in _ASSIGNING.finditer(text):
        if sign.start() < done or not _TELLING.search(text, max(0, sign.start() - _LONGEST_NAME), sign.start()):
            continue
        value = _VALUE.match(text, sign.end())
        if value is None or (sign["end"] and not value["quote"]):
            continue
        mark = value["quote"] or ""
        parts += [text[done : sign.end()], f"{mark}***{mark}"]
        done = value.end()
    return "".join((*parts, text[done:]))


def mask_paths(text: str) -> str:
    """Give `text` with absolute paths of a machine cut to `.../name`; URLs stay as they are."""

    def cut(found: re.Match[str]) -> str:
        name = re.split(r"[\\/]", found[0])[-1]
        return found["url"] or f"{found['scheme'] or ''}.../{name}"

    return _PATH.sub(cut, text)
