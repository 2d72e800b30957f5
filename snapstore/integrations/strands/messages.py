"""Convert messages and their content blocks between the dialects.

A shape is changed only where the SDKs give it a meaning. The inputs of tools, and their results in
JSON, are not looked into. Blocks that TypeScript can't restore are carried in the metadata of their
message, which both SDKs keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from snapstore.integrations.strands.aside import (
    Block,
    Place,
    carry_aside,
    put_back,
    set_aside,
    take_aside,
)
from snapstore.model.snapshot import Dialect

__all__ = ["content_to_python", "content_to_typescript", "message_to", "renamed"]

_MARKER: Final = "__bytes_encoded__"

_MESSAGE_FIELDS: Final = {"trackingId": "tracking_id"}
_CACHE_POINT_FIELDS: Final = {"cacheType": "type"}
_MEDIA: Final = ("image", "video", "audio", "document")
_LOCATIONS: Final = {
    "documentChar": "documentChar",
    "documentPage": "documentPage",
    "documentChunk": "documentChunk",
    "searchResult": "searchResultLocation",
    "web": "web",
}
"""The location of a citation: by its `type` in TypeScript, by its only key in Python."""


def renamed(node: dict[str, Any], names: dict[str, str], to: Dialect) -> dict[str, Any]:
    """Rename the fields of an object that have two names; their order stays.

    Args:
        node: An object.
        names: Its fields that have two names: TypeScript's to Python's.
        to: Whose names are wanted.
    """
    if to == "typescript":
        names = {python: typescript for typescript, python in names.items()}
    return {names.get(name, name): value for name, value in node.items()}


def message_to(message: dict[str, Any], to: Dialect) -> dict[str, Any]:
    """Convert one message of a conversation."""
    if to == "typescript":
        content, aside = content_to_typescript(message["content"])
        return carry_aside(renamed(message, _MESSAGE_FIELDS, to) | {"content": content}, aside)
    message, aside = take_aside(message)
    content = content_to_python(message["content"], aside)
    return renamed(message, _MESSAGE_FIELDS, to) | {"content": content}


def content_to_typescript(
    content: list[Block], place: Place = "message"
) -> tuple[list[Block], list[Block]]:
    """Convert the content of a message or of a system prompt, and set aside some; see `set_aside`.

    Args:
        content: The blocks.
        place: Where they are.
    """
    return set_aside(content, lambda block: _block_to(block, "typescript"), place)


def content_to_python(content: list[Block], aside: list[Block] | None = None) -> list[Block]:
    """Convert content, and put back the blocks that were set aside."""
    changed = [_block_to(block, "python") for block in content]
    put_back(changed, aside or [])
    return changed


def _block_to(block: dict[str, Any], to: Dialect) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for kind, value in block.items():
        if kind in _MEDIA and (kind != "document" or "source" in value):  # where it is optional
            changed[kind] = _media_to(value, to)
        elif kind in _BLOCKS[to]:
            name, change = _BLOCKS[to][kind]
            changed[name] = change(value, to)
        else:
            changed[kind] = value
    return changed


def _media_to(media: dict[str, Any], to: Dialect) -> dict[str, Any]:
    source = media["source"]
    if "bytes" not in source:
        return media
    return media | {"source": source | {"bytes": _bytes_to(source["bytes"], to)}}


def _bytes_to(value: Any, to: Dialect) -> Any:
    """Convert bytes: base64 text in TypeScript, an object with a marker in Python."""
    if to == "python" and type(value) is str:
        return {_MARKER: True, "data": value}
    if to == "typescript" and type(value) is dict and value.get(_MARKER) is True:
        return value["data"]
    return value


def _tool_result_to(result: dict[str, Any], to: Dialect) -> dict[str, Any]:
    return result | {"content": [_block_to(block, to) for block in result["content"]]}


def _cache_point_to(point: dict[str, Any], to: Dialect) -> dict[str, Any]:
    return renamed(point, _CACHE_POINT_FIELDS, to)


def _guard_to(guard: dict[str, Any], to: Dialect) -> dict[str, Any]:
    return guard | {"image": _media_to(guard["image"], to)} if "image" in guard else guard


def _reasoning_to(reasoning: dict[str, Any], to: Dialect) -> dict[str, Any]:
    """Convert reasoning: Python nests its text and signature, TypeScript does not."""
    changed = dict(reasoning)
    if "redactedContent" in changed:
        changed["redactedContent"] = _bytes_to(changed["redactedContent"], to)
    if to == "typescript":
        text = changed.pop("reasoningText", {})
        return {**text, **changed}
    text = {name: changed.pop(name) for name in ("text", "signature") if name in changed}
    return {"reasoningText": text, **changed} if text else changed


def _citations_to(block: dict[str, Any], to: Dialect) -> dict[str, Any]:
    if "citations" not in block:
        return block
    return block | {"citations": [_citation_to(citation, to) for citation in block["citations"]]}


def _citation_to(citation: dict[str, Any], to: Dialect) -> dict[str, Any]:
    location = citation.get("location")
    if type(location) is not dict:
        return citation
    if to == "python" and location.get("type") in _LOCATIONS:
        fields = {name: value for name, value in location.items() if name != "type"}
        return citation | {"location": {_LOCATIONS[location["type"]]: fields}}
    if to == "typescript" and len(location) == 1:
        for kind, name in _LOCATIONS.items():
            if name in location:
                return citation | {"location": {"type": kind, **location[name]}}
    return citation


_Change = Callable[[dict[str, Any], Dialect], dict[str, Any]]

_BLOCKS: Final[dict[Dialect, dict[str, tuple[str, _Change]]]] = {
    "python": {
        "toolResult": ("toolResult", _tool_result_to),
        "cachePoint": ("cachePoint", _cache_point_to),
        "guardContent": ("guardContent", _guard_to),
        "reasoning": ("reasoningContent", _reasoning_to),
        "citations": ("citationsContent", _citations_to),
    },
    "typescript": {  # tool results: `set_aside`
        "cachePoint": ("cachePoint", _cache_point_to),
        "guardContent": ("guardContent", _guard_to),
        "reasoningContent": ("reasoning", _reasoning_to),
        "citationsContent": ("citations", _citations_to),
    },
}
"""By its kind, what a block is called in a dialect, and how its inside is changed."""
