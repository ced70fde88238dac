"""Objectives that are Python functions, or made in Python: handed over as objects, or named by a file or a module."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Protocol, TypeGuard

from agentic_hpt.errors import ConfigError
from agentic_hpt.protocols import Objective, TrialHandle
from agentic_hpt.records import JsonObject, Params

__all__ = ["FunctionObjective", "as_objective", "load_function"]

# Slow to import, and safe to fork once imported.
_HEAVY = ("numpy", "pandas", "scipy", "sklearn", "torch")


class _Nameable(Objective, Protocol):
    """An objective that is made in Python, and can be loaded by a name."""

    source: tuple[str, str | None, str | None] | None
    """What `load_function` was called with, as which it pickles."""


class FunctionObjective:
    """Call `function(params)` or `function(params, trial)`; `final`, called alike, trains and scores the final model.

    Raises `ConfigError` for what can't be called like that.
    """

    def __init__(self, function: Callable[..., object], final: Callable[..., object] | None = None) -> None:
        self.function = function
        self.final = final
        self._with_trial = _takes_trial(function)
        self._final_with_trial = _takes_trial(final) if final is not None else False
        self.source: tuple[str, str | None, str | None] | None = None

    def __repr__(self) -> str:
        return _name(self.function)

    def __reduce__(self) -> tuple[Callable[..., Objective], tuple[object, ...]]:
        """Pickle a function that was loaded by name as that name: a trial's process loads it again."""
        if self.source is not None:
            return load_function, self.source
        return FunctionObjective, (self.function, self.final)

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """What a trial's figures rest on, of the user's."""
        return (self.function,) if self.final is None else (self.function, self.final)

    @property
    def has_holdout(self) -> bool:
        """Whether there is a final function."""
        return self.final is not None

    def preload(self) -> tuple[str, ...]:
        """Name the heavy libraries that the functions, or those beside them, use."""
        used: set[str] = set()
        for function in (self.function, self.final):
            used.update(_libraries(function))
        found = [name for name in _HEAVY if name in used]
        # The first step of an optimizer imports it, which takes longer than torch itself.
        return (*found, "torch._dynamo") if "torch" in used else tuple(found)

    def facts(self, params: Params) -> JsonObject:
        """Give nothing: what a function works on is not known; the study file's `job` may say it."""
        return {}

    def run(self, params: Params, trial: TrialHandle) -> object:
        """Call the function with a copy of the parameters."""
        return self.function(dict(params), trial) if self._with_trial else self.function(dict(params))

    def holdout(self, params: Params, trial: TrialHandle) -> object:
        """Call the final function. Raises `ConfigError` when there is none."""
        if self.final is None:
            raise ConfigError(f"{self!r} has no final function", "ask has_holdout first")
        return self.final(dict(params), trial) if self._final_with_trial else self.final(dict(params))


def as_objective(given: Callable[..., object] | Objective, final: Callable[..., object] | None = None) -> Objective:
    """Make an objective of a function; give what is one already, by `torch_batch` say, as it is.

    Raises `ConfigError` for what is neither, and for a `final` beside what has a holdout of its own.
    """
    return _made_of(given, final)


def load_function(spec: str, folder: str | None = None, final: str | None = None) -> Objective:
    """Load `train.py:train` (a path, from `folder`) or `package.module:function`, and `final` alike.

    The name may also be an objective's that is made there, by `torch_batch` say. The file's folder goes on `sys.path`,
    so that it can import what lies beside it. What the import prints goes to standard error. Raises `ConfigError` that
    says which part of the name is wrong.
    """
    base = str(Path(folder or ".").resolve())
    objective = _made_of(_resolve(spec, base), _resolve(final, base) if final is not None else None)
    objective.source = (spec, base, final)
    return objective


def _is_objective(given: object) -> TypeGuard[_Nameable]:
    return hasattr(given, "has_holdout") and callable(getattr(given, "run", None)) and not isinstance(given, type)


def _made_of(given: object, final: object) -> _Nameable:
    if not _is_objective(given):
        return FunctionObjective(given, final)  # type: ignore[arg-type]  # what is no function, it refuses
    if final is not None:
        raise ConfigError(f"{given!r} takes no final function", "give its holdout where it is made")
    return given


def _resolve(spec: str, base: str) -> object:
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise ConfigError(f"{spec!r} does not name a function", "write train.py:train or package.module:function")
    module = _import_file(Path(base, where), spec) if where.endswith(".py") else _import_module(where, base, spec)
    try:
        function: object = reduce(getattr, name.split("."), module)
    except AttributeError:
        own = [n for n, v in vars(module).items() if isinstance(v, FunctionType) and v.__module__ == module.__name__]
        hint = f"it defines {', '.join(own)}" if own else "it defines no function"
        raise ConfigError(f"{spec!r}: {where} has no {name!r}", hint) from None
    if not callable(function) and not _is_objective(function):
        raise ConfigError(f"{spec!r} is a {type(function).__name__}, not a function", "name a function")
    return function


def _import_file(path: Path, spec: str) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"{spec!r}: there is no file {path}", "paths start at the study file's folder")
    # Its own name could be that of a library, or of another study's file; and a file that changed is another module.
    digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()
    name = f"hpt_file_{path.stem}_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    loader_spec = importlib.util.spec_from_file_location(name, path)
    if loader_spec is None or loader_spec.loader is None:
        raise ConfigError(f"{spec!r}: {path} can't be imported", "name a Python file")
    module = importlib.util.module_from_spec(loader_spec)
    with _importing(spec, str(path), str(path.parent)):
        sys.modules[name] = module
        try:
            loader_spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def _import_module(name: str, base: str, spec: str) -> ModuleType:
    with _importing(spec, name, base):
        return importlib.import_module(name)


@contextlib.contextmanager
def _importing(spec: str, what: str, folder: str) -> Iterator[None]:
    if folder not in sys.path:
        sys.path.insert(0, folder)
    writes_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # the user's folder is not ours to write to
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{spec!r}: importing {what} failed: {type(error).__name__}: {error}",
            "see that it can be imported by itself, without running anything",
        ) from error
    finally:
        sys.dont_write_bytecode = writes_bytecode


def _takes_trial(function: Callable[..., object]) -> bool:
    """Say whether a function takes `(params, trial)` rather than `(params)`. Raises `ConfigError` when neither fits."""
    if not callable(function):
        raise ConfigError(f"the objective is {function!r}, not a function", "give a function train(params, trial)")
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{_name(function)} is an async function", "give a plain one; call asyncio.run inside")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-ins have none
        return False
    positional = [
        p
        for p in signature.parameters.values()
        if p.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    # A second parameter with a default is somebody's option, unless it has the trial's name.
    wants = len(positional) >= 2 and (positional[1].default is inspect.Parameter.empty or positional[1].name == "trial")
    try:
        signature.bind(*([None, None] if wants else [None]))
    except TypeError:
        raise ConfigError(
            f"{_name(function)}{signature} can't be called with the parameters",
            "write train(params) or train(params, trial)",
        ) from None
    return wants


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _libraries(function: object) -> set[str]:
    """Name the packages that a function's module holds, and those imported inside its functions."""
    function = inspect.unwrap(function) if callable(function) else function
    if not isinstance(function, FunctionType):
        return set()
    found = _imported_inside(function.__code__)
    for value in function.__globals__.values():
        if isinstance(value, FunctionType) and value.__globals__ is function.__globals__:
            found |= _imported_inside(value.__code__)
        origin = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(origin, str):
            found.add(origin.partition(".")[0])
    return found


def _imported_inside(code: CodeType) -> set[str]:
    found = {name.partition(".")[0] for name in code.co_names}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _imported_inside(constant)
    return found
