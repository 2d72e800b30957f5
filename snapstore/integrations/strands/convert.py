"""Convert snapshots between the dialects of the two Strands SDKs.

Fields that have different names in the SDKs are renamed, and values of different shapes are
reshaped. A field that only one SDK has keeps its name and place, where the other SDK ignores it, so
that converting back restores it. Times are not converted: both SDKs keep them as text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from snapstore.encoding.envelope import decode_snapshot, encode_snapshot
from snapstore.encoding.validation import validate_exact
from snapstore.errors import SnapshotDecodeError, SnapshotEncodeError
from snapstore.integrations.strands.interrupts import (
    interrupts_to_python,
    interrupts_to_typescript,
)
from snapstore.integrations.strands.messages import (
    content_to_python,
    content_to_typescript,
    message_to,
    renamed,
)
from snapstore.model.snapshot import Dialect, Snapshot

__all__ = ["convert_snapshot", "is_snapshot_key"]

_SNAPSHOT_KEY = re.compile(
    r"(?:.*/)?scopes/(?:agent|multiAgent)/[^/]+/snapshots/"
    r"(?:snapshot_latest|immutable_history/snapshot_[^/]+)\.json",
    re.DOTALL,
)

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# A surrogate pair, half of one, or any other escape: each backslash belongs to one of them.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)

_AGENT_FIELDS: Final = {"systemPrompt": "system_prompt", "modelState": "model_state"}
_MODEL_STATE_FIELDS: Final = {"responseId": "response_id"}
_STASH_FIELDS: Final = {"storageType": "storage_type"}
_ORCHESTRATOR_FIELDS: Final = {"orchestratorId": "orchestrator_id"}

_PROMPT_ASIDE: Final = "python_system_prompt"
"""The field that carries the blocks of the system prompt that TypeScript can't restore."""

T = TypeVar("T")


class _Envelope(msgspec.Struct):
    """The fields of a document that tell its dialect."""

    createdAt: str | None = None  # noqa: N815 -- its name there
    created_at: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def is_snapshot_key(key: str) -> bool:
    """Whether a key is that of a snapshot, latest or in history, and may be translated.

    Args:
        key: The key, with or without the prefixes of storages.
    """
    return _SNAPSHOT_KEY.fullmatch(key) is not None


def convert_snapshot(document: bytes, to: Dialect) -> bytes:
    """Translate a snapshot of one Strands SDK for the other.

    Messages with all their blocks, state, system prompt, model state, stash and pending interrupts
    are translated. Whatever has no counterpart is carried along: there and back again, the document
    holds the same values. The other SDK ignores it, and leaves it out when it saves.

    TypeScript's SDK restores no session that has a block which it does not know in that place, such
    as audio in the result of a tool. In its place it gets a text; the block is carried in the
    metadata of its message, also when TypeScript saves, and comes back.

    An orchestrator's progress has no counterpart: TypeScript's does not tell which nodes follow
    which, and Python's not which there are. A graph or a swarm of the other SDK starts anew.

    Half of a surrogate pair, as of an emoji cut in two, is U+FFFD for Python, whose SDK could read
    but not save it.

    Args:
        document: A snapshot as an SDK wrote it, in either dialect.
        to: The SDK that is to read it.

    Returns:
        The snapshot in that dialect; the same bytes, not looked into, if they have that dialect's
        envelope already.

    Raises:
        ValueError: `to` is neither `"typescript"` nor `"python"`.
        SnapshotDecodeError: The document is not a snapshot as an SDK writes it. No text of it is
            in the error.
        SnapshotEncodeError: It holds what the other dialect can't carry: NaN or an infinity, which
            Python's SDK writes, too many levels for the other's shapes, or, for TypeScript, what is
            not shaped as Python's SDK has it. The message has the path to it, never the value.

    Example:
        Give what a TypeScript agent saved to the SDK for Python::

            document = convert_snapshot(saved, to="python")
    """
    if to not in ("typescript", "python"):
        raise ValueError("to must be 'typescript' or 'python'")
    if _is_in(to, document):
        return document
    text = document
    if to == "python" and _ESCAPED_SURROGATE.search(text):
        text = _ESCAPE.sub(_replace_half_pair, text)
    changed, problem, failure = None, "", None
    try:
        snapshot = decode_snapshot(text, key="the document")
        data = _data_to(snapshot, to)
        changed = msgspec.structs.replace(snapshot, data=data, dialect=to)
    except SnapshotDecodeError as error:
        problem = str(error)
    except _UnlikeError as error:
        problem = "the document is not a snapshot: its data is not as an SDK writes it"
        if to == "typescript":
            failure = f"{error}: not as an SDK writes it"
    # Raised here, since an error in its chain could hold the text that was failed on.
    if failure is not None:
        raise SnapshotEncodeError(failure)
    if changed is None:
        if to == "typescript":
            _validate_exact(document)
        raise SnapshotDecodeError(problem)
    return encode_snapshot(changed, max_bytes=sys.maxsize)


class _UnlikeError(Exception):
    """A part of a snapshot is not as an SDK writes it; the message is the path to it."""


def _validate_exact(document: bytes) -> None:
    """Check that a document has no values that Python's SDK writes although JSON has no such.

    Raises:
        SnapshotEncodeError: There is such a value. The message has the path to it.
    """
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return
    if type(found) is dict and "created_at" in found:
        validate_exact(found, sys.maxsize)


def _is_in(dialect: Dialect, document: bytes) -> bool:
    """Whether a document has this dialect's envelope with data in it, and not the other's."""
    try:
        envelope = _decode_envelope(document)
        has_data = bytes(memoryview(envelope.data)[:1]) == b"{"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Python's SDK writes and reads NaN, which is not JSON. Such a document is left as it is.
        try:
            found = json.loads(document)
        except (ValueError, RecursionError):
            return False
        if type(found) is not dict:
            return False
        envelope = _Envelope(found.get("createdAt"), found.get("created_at"))
        has_data = type(found.get("data")) is dict
    spelled = (envelope.createdAt is not None, envelope.created_at is not None)
    return has_data and spelled == (dialect == "typescript", dialect == "python")


def _replace_half_pair(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]


def _data_to(snapshot: Snapshot, to: Dialect) -> dict[str, Any]:
    change = _agent_to if snapshot.scope == "agent" else _orchestrator_to
    return change(snapshot.data, to)


def _part_to(path: str, change: Callable[[], T]) -> T:
    """Convert a part of the data.

    Raises:
        _UnlikeError: It is not as an SDK writes it.
    """
    try:
        return change()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        pass
    raise _UnlikeError(path)


def _agent_to(data: dict[str, Any], to: Dialect) -> dict[str, Any]:
    there = to == "python"
    data = renamed(data, _AGENT_FIELDS, to)
    model = "model_state" if there else "modelState"
    for part, fields in ((model, _MODEL_STATE_FIELDS), ("stash", _STASH_FIELDS)):
        if type(data.get(part)) is dict:
            data[part] = renamed(data[part], fields, to)
    prompt = _prompt_to_python if there else _prompt_to_typescript
    _part_to("data.system_prompt", lambda: prompt(data))
    messages = None
    if "messages" in data:
        found: list[Any] = _part_to("data.messages", partial(list, data["messages"]))
        messages = [
            _part_to(f"data.messages[{number}]", partial(message_to, message, to))
            for number, message in enumerate(found)
        ]
    # TypeScript's null means that there are none, and is kept.
    if there and data.get("interrupts") is not None:
        asked = data.pop("interrupts")
        data["interrupt_state"], messages = _part_to(
            "data.interrupts", lambda: interrupts_to_python(asked, messages)
        )
    elif not there and "interrupt_state" in data:
        asked = data.pop("interrupt_state")
        data["interrupts"], messages = _part_to(
            "data.interrupt_state", lambda: interrupts_to_typescript(asked, messages)
        )
    if messages is not None:
        data["messages"] = messages
    return data


def _prompt_to_python(data: dict[str, Any]) -> None:
    aside = data.pop(_PROMPT_ASIDE, None)
    if type(data.get("system_prompt")) is list:
        data["system_prompt"] = content_to_python(data["system_prompt"], aside)


def _prompt_to_typescript(data: dict[str, Any]) -> None:
    prompt = data.get("systemPrompt")
    if prompt is None or type(prompt) is str:
        return
    data["systemPrompt"], aside = content_to_typescript(prompt, "system prompt")
    if aside:
        data[_PROMPT_ASIDE] = aside


def _orchestrator_to(data: dict[str, Any], to: Dialect) -> dict[str, Any]:
    """Set the progress of one SDK aside, and restore that of the other, if it was set aside."""
    data = renamed(data, _ORCHESTRATOR_FIELDS, to)
    progress = data.pop("state", None)
    if progress:
        data["typescript_state" if to == "python" else "python_state"] = progress
    found = data.pop(f"{to}_state", None)
    if found is not None:
        data["state"] = found
    elif to == "python":
        # Python requires the field; an empty one begins anew.
        data["state"] = {}
    return data
