"""Reading a YAML study file into plain data."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from agentic_hpt.errors import ConfigError

_MOST_BYTES = 2_000_000
_MOST_VALUES = 200_000
"""With aliases (`*name`) written out: a few lines of them can stand for more than any memory holds."""
_DEEPEST = 50
_LONGEST_NUMBER = 100


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: 1e-5 is a number, yes/no/on/off are text, a key stands once."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rx) for tag, rx in entries if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*)?\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*\.?(?:[eE][-+]?[0-9]+)"
        r"|[-+]?[0-9][0-9_]*\.|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _unique_keys(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, list | dict):
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} can't be a key", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_keys)


def read_study_file(path: Path) -> dict[str, object]:
    """Read a YAML study file into plain data. Raises `ConfigError` with the line at fault."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the study file {path}: {error}", "`hpt init` writes one") from None
    if len(text) > _MOST_BYTES:
        raise ConfigError(f"the study file {path} is larger than {_MOST_BYTES // 10**6} MB", "name a study file")
    try:
        data = _loaded(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2026-13-45 is a ValueError
        raise ConfigError(f"{path} is not valid YAML: {error}", "check indentation, colons and quotes") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} does not hold a mapping of keys to values", "`hpt init` writes a study file")
    return {str(k): v for k, v in data.items()}


def _loaded(text: str) -> object:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Give how many values a node stands for and how deep they lie. Raises `ConstructorError` for too much of it."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST_VALUES + 1, 0  # until it is known: one that holds itself has no end
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(None, None, "the number is too long", node.start_mark)
        inner = []
    elif isinstance(node, yaml.MappingNode):
        inner = [_measure(part, known) for pair in node.value for part in pair]
    else:
        inner = [_measure(part, known) for part in node.value]
    size, depth = 1 + sum(s for s, _ in inner), 1 + max((d for _, d in inner), default=0)
    if size > _MOST_VALUES or depth > _DEEPEST:
        what = f"more than {_MOST_VALUES} values" if size > _MOST_VALUES else f"more than {_DEEPEST} levels"
        raise yaml.constructor.ConstructorError(None, None, f"it holds {what}, aliases written out", node.start_mark)
    known[id(node)] = size, depth
    return size, depth
