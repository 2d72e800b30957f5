"""A snapshot as people read it: who said what, which tools ran, and what they returned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

from snapstore.cli.printing import printable, shown_size

__all__ = ["message_lines", "messages_of", "shown_value"]

_WIDTH: Final = 200
"""Characters of a value that are shown on one line."""
_MEDIA: Final = ("image", "document", "video", "audio")
_SILENT: Final = ("cachePoint",)
"""Blocks that say nothing to anybody."""


def messages_of(data: dict[str, Any]) -> list[Any]:
    """The messages in the state of an agent; empty where there are none."""
    messages = data.get("messages")
    return messages if isinstance(messages, list) else []


def shown_value(value: Any, width: int = _WIDTH) -> str:
    """Any JSON on one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    text = printable(" ".join(text.split()))
    return text if len(text) <= width else f"{text[: width - 1]}…"


def message_lines(message: Any) -> Iterator[str]:
    """A message, line by line. What is not known is shown as JSON, and nothing is left out."""
    if not isinstance(message, dict):
        yield shown_value(message)
        return
    fields = cast("dict[str, Any]", message)
    content = fields.get("content")
    blocks: list[Any] = content if isinstance(content, list) else [content]
    lines = [line for block in blocks for line in _block_lines(block)]
    yield f"{shown_value(fields.get('role', '?'), 20)}: {lines[0] if lines else ''}".rstrip()
    for line in lines[1:]:
        yield f"  {line}".rstrip()


def _block_lines(block: Any) -> Iterable[str]:
    if isinstance(block, str):
        return printable(block).splitlines() or [""]
    if not isinstance(block, dict) or not block:
        return [shown_value(block)]
    fields = cast("dict[str, Any]", block)
    kind = next((key for key in fields if key not in ("type", "cacheControl")), "")
    value: Any = fields.get(kind)
    match kind:
        case "text" if isinstance(value, str):
            return printable(value).splitlines() or [""]
        case "toolUse" if isinstance(value, dict):
            return [f"→ {_name(value)} {shown_value(value.get('input'))}"]
        case "toolResult" if isinstance(value, dict):
            return _result_lines(cast("dict[str, Any]", value))
        case "reasoning" | "reasoningContent":
            return [f"(thinks) {shown_value(_text_in(value))}"]
        case _ if kind in _MEDIA and isinstance(value, dict):
            return [f"[{kind}: {_media(cast('dict[str, Any]', value))}]"]
        case _ if kind in _SILENT:
            return []
        case _:
            return [shown_value(fields)]


def _name(tool: dict[str, Any]) -> str:
    return shown_value(tool.get("name", "?"), 80)


def _result_lines(result: dict[str, Any]) -> Iterator[str]:
    content = result.get("content")
    parts: list[Any] = content if isinstance(content, list) else [content]
    lines = [line for part in parts for line in _result_part(part)]
    mark = "✗" if result.get("status") == "error" else "←"
    yield f"{mark} {lines[0] if lines else ''}".rstrip()
    for line in lines[1:]:
        yield f"  {line}"


def _result_part(part: Any) -> Iterable[str]:
    if isinstance(part, dict) and set(cast("dict[str, Any]", part)) == {"json"}:
        return [shown_value(part["json"])]
    return _block_lines(part)


def _text_in(value: Any) -> Any:
    """The text of a thought, which the SDKs nest differently."""
    for field in ("reasoningText", "text"):
        if isinstance(value, dict) and field in value:
            value = cast("dict[str, Any]", value)[field]
    return value


def _media(media: dict[str, Any]) -> str:
    source: Any = media.get("source")
    told = [shown_value(media[key], 80) for key in ("name", "format") if media.get(key)]
    if isinstance(source, dict):
        for key, found in cast("dict[str, Any]", source).items():
            # Bytes are base64 in JSON: four characters for three bytes.
            size = shown_size(len(found) * 3 // 4) if isinstance(found, str) else ""
            told.append(size if key == "bytes" and size else shown_value({key: found}, 80))
    return ", ".join(told)
