"""Set aside the content blocks of Python that the SDK for TypeScript can't restore.

TypeScript's SDK throws on a block of a kind that it does not know in that place, and on one that
lacks a field its class needs. It then restores nothing of the session. So such a block is set
aside, and a placeholder text takes its place. When the snapshot is converted back to Python, the
block replaces the placeholder, unless that was removed meanwhile, as by a redaction. A block that
says nothing to a model, such as a cache point, gets no placeholder.

The rules are those of `contentBlockFromData`, `toolResultContentFromData` and
`systemPromptFromData` in `src/types/messages.ts`, and of the classes in `src/types/media.ts`, of
the SDK for TypeScript, 1.14 to 1.19.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

__all__ = ["ASIDE", "Block", "Place", "carry_aside", "put_back", "set_aside", "take_aside"]

Block = dict[str, Any]

Place = Literal["message", "tool result", "system prompt"]
"""Where content is. It decides which kinds of blocks TypeScript knows there."""

ASIDE: Final = "python_content"
"""The field that carries the blocks that were set aside. TypeScript ignores it."""

_PLACEHOLDER: Final[Block] = {"text": "[content that only Python can restore]"}

# In the order in which TypeScript looks for them.
_KINDS: Final[dict[Place, tuple[str, ...]]] = {
    "message": (
        "text",
        "toolUse",
        "toolResult",
        "reasoning",
        "cachePoint",
        "guardContent",
        "audio",
        "image",
        "video",
        "document",
        "citations",
    ),
    "tool result": ("text", "json", "image", "video", "document"),
    "system prompt": ("cachePoint", "guardContent", "text"),
}
_SOURCES: Final = {
    "audio": ("bytes",),
    "image": ("bytes", "url"),
    "video": ("bytes",),
    "document": ("bytes", "text"),
}
"""What a source may have besides a location, by the kind of media."""


def set_aside(
    content: list[Any], convert: Callable[[Block], Block], place: Place = "message"
) -> tuple[list[Block], list[Block]]:
    """Convert content for TypeScript, and set aside the blocks that TypeScript can't restore.

    Args:
        content: The blocks in Python.
        convert: Converts a block; the content of a tool result is left to this function.
        place: Where the content is.

    Returns:
        The blocks for TypeScript, and those that were set aside: each as it is in Python, with its
        index in the content, preceded by that of the tool result that contains it, if any.

    Raises:
        TypeError: The content is not a list.
    """
    if type(content) is not list:
        raise TypeError("content must be a list")
    kept: list[Block] = []
    aside: list[Block] = []
    for index, block in enumerate(content):
        there = _converted(block, convert)
        if there is None or not _can_be_restored(there, place):
            aside.append({"at": [index], "block": block})
            placeholder = _placeholder_for(block)
            if placeholder is not None:
                kept.append(placeholder)
            continue
        if _kind_of(there, place) == "toolResult":
            result = there["toolResult"]
            inner, inner_aside = set_aside(result["content"], convert, "tool result")
            there = there | {"toolResult": result | {"content": inner}}
            aside += [{**found, "at": [index, *found["at"]]} for found in inner_aside]
        kept.append(there)
    return kept, aside


def put_back(content: list[Block], aside: list[Block]) -> None:
    """Put the blocks that were set aside back into content that was converted to Python.

    Args:
        content: The blocks. They are changed.
        aside: The blocks that were set aside, in the order of `set_aside`.
    """
    for found in aside:
        (*outer, index), block = found["at"], found["block"]
        blocks: Any = content
        if outer:
            result = content[outer[0]] if outer[0] < len(content) else {}
            blocks = result.get("toolResult", {}).get("content", [])
        placeholder = _placeholder_for(block)
        if placeholder is None:
            blocks.insert(index, block)
        elif blocks[index : index + 1] == [placeholder]:
            blocks[index] = block


def carry_aside(message: dict[str, Any], aside: list[Block]) -> dict[str, Any]:
    """Store the blocks that were set aside in the metadata of their message; both SDKs keep it."""
    if not aside:
        return message
    metadata = message.get("metadata")
    carried: dict[str, Any] = {"blocks": aside}
    if "metadata" in message and not metadata:
        carried["metadata"] = metadata
    return message | {"metadata": {**(metadata or {}), ASIDE: carried}}


def take_aside(message: dict[str, Any]) -> tuple[dict[str, Any], list[Block]]:
    """Reverse `carry_aside`: return the message without them, and the blocks."""
    metadata = message.get("metadata")
    if type(metadata) is not dict or ASIDE not in metadata:
        return message, []
    carried = metadata[ASIDE]
    metadata = {name: value for name, value in metadata.items() if name != ASIDE}
    message = {name: value for name, value in message.items() if name != "metadata"}
    if metadata or "metadata" in carried:
        message["metadata"] = metadata or carried["metadata"]
    return message, carried["blocks"]


def _converted(block: Any, convert: Callable[[Block], Block]) -> Block | None:
    try:
        return convert(block)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # not a block of the SDKs


def _placeholder_for(block: Any) -> Block | None:
    if block == {} or (type(block) is dict and block.keys() == {"cachePoint"}):
        return None
    if type(block) is dict and type(block.get("text")) is str:
        return {"text": block["text"]}
    return _PLACEHOLDER


def _kind_of(block: Block, place: Place) -> str | None:
    return next((kind for kind in _KINDS[place] if kind in block), None)


def _can_be_restored(block: Block, place: Place) -> bool:
    kind = _kind_of(block, place)
    if kind is None or (place == "system prompt" and "type" in block):
        return False
    value = block[kind]
    if kind in ("text", "json"):
        return True
    if type(value) is not dict:
        return False
    if kind == "toolResult":
        return type(value.get("content")) is list
    if kind == "guardContent":
        image = value.get("image")
        if bool(value.get("text")) == bool(image):
            return False
        return not image or type(image.get("source")) is dict
    return kind not in _SOURCES or _is_source(value.get("source"), kind)


def _is_source(source: Any, kind: str) -> bool:
    if type(source) is not dict:
        return False
    if any(name in source for name in _SOURCES[kind]):
        return True
    if kind == "document" and "content" in source:
        parts = source["content"]
        return type(parts) is list and all(type(part) is dict for part in parts)
    return type(source.get("location")) is dict
