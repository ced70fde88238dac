"""The evidence as it may be kept: the same, without secrets and a machine's paths, as in what is kept of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from agentic_hpt.config import mask_paths, mask_secrets
from agentic_hpt.records import JsonObject


def kept(evidence: JsonObject) -> JsonObject:
    """Give the evidence with every text in it masked."""
    together = "\n".join(set(_texts(evidence)))  # to look once costs a tenth, and mostly there is nothing
    return evidence if _masked(together) == together else cast(JsonObject, _clean(evidence))


def _masked(text: str) -> str:
    return mask_paths(mask_secrets(text))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield str(key)
            yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _masked(value)
    if isinstance(value, Mapping):
        return {_masked(str(key)): _clean(entry) for key, entry in value.items()}
    return [_clean(entry) for entry in value] if isinstance(value, list | tuple) else value
