"""What is written into a checkpoint, and what is made of one that is read."""

from __future__ import annotations

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agentic_hpt.config import mask_secrets

__all__ = ["PlainSerializer"]


class PlainSerializer(JsonPlusSerializer):
    """Reads plain data and LangGraph's own types; an error is kept as text, without secrets.

    By default LangGraph calls whatever a checkpoint names, so that who can write to the store could run code here.
    """

    def __init__(self) -> None:
        super().__init__(pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=None)

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        """Give a value's kind and bytes."""
        return super().dumps_typed(mask_secrets(repr(obj)) if isinstance(obj, BaseException) else obj)
