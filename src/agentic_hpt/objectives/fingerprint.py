"""What code an objective is, as a hash: to notice that it changed under a study. Nothing is imported or run for it."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType

__all__ = ["of_command", "of_function", "of_named"]

_LARGEST = 2**24
"""Of larger files, data perhaps, size and time of change stand for the content."""


def of_named(specs: Sequence[str], folder: str | None) -> str:
    """Give the fingerprint of functions named as `train.py:train` or `package.module:function`: of their files."""
    return _hash([_file(path) for spec in specs if (path := _path(spec.rpartition(":")[0], folder)) is not None])


def of_command(argv: Sequence[str], folder: str | None) -> str:
    """Give the fingerprint of a command: of its words, and of the files among them."""
    base = Path(folder or ".").resolve()
    return _hash([part for word in argv for part in (word.encode(), _file(base / word))])


def of_function(function: Callable[..., object]) -> str:
    """Give the fingerprint of a function handed over in code: of its source, or where there is none of its code."""
    target = inspect.unwrap(function)
    try:
        return _hash([inspect.getsource(target).encode()])
    except (OSError, TypeError):
        code = getattr(target, "__code__", None)
        return _hash(list(_parts(code))) if isinstance(code, CodeType) else ""


def _hash(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def _file(path: Path) -> bytes:
    """Give what stands for a file: empty where there is none."""
    try:
        if not path.is_file():
            return b""
        facts = path.stat()
        return path.read_bytes() if facts.st_size <= _LARGEST else f"{facts.st_size} {facts.st_mtime_ns}".encode()
    except (OSError, ValueError):
        return b""


def _path(where: str, folder: str | None) -> Path | None:
    """Find the file of a module without importing it or the packages that it is in."""
    base = Path(folder or ".").resolve()
    if where.endswith(".py"):
        return base / where
    places: list[str] = [str(base), *sys.path]
    origin: str | None = None
    for name in where.split("."):
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return None
        origin, places = spec.origin, list(spec.submodule_search_locations or ())
    return Path(origin) if origin else None


def _parts(code: CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts(constant)
        else:  # the order in which a set shows itself is not the same in all processes
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant).encode()
