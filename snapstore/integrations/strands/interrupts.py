"""Convert the interrupts of an agent that waits for a person's answer.

An SDK finds the answer to an interrupt by an id, which it makes of the tool call and the
interrupt's name. Each SDK makes it in its own way, so ids are converted as well.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from snapstore.integrations.strands.aside import ASIDE, Block
from snapstore.integrations.strands.messages import (
    content_to_python,
    content_to_typescript,
    message_to,
)
from snapstore.model.snapshot import Dialect

__all__ = ["convert_interrupt_id", "interrupts_to_python", "interrupts_to_typescript"]

_KINDS: Final = [
    ("tool:", "v1:tool_call:", True, "tool"),
    ("hook:beforeToolCall:", "v1:before_tool_call:", True, "hook"),
    ("hook:beforeTools:", "v1:before_tools:", False, "hook"),
    ("middleware:executeTool:", "v1:middleware_execute_tool:", True, "middleware"),
    ("middleware:agentStream:", "v1:middleware_agent_stream:", False, "middleware"),
]
"""How ids begin in TypeScript and in Python, whether the tool call follows, and the source.

Ids end with the name in TypeScript, and with a hash of it in Python.
"""

_CARRIED: Final = "typescript"
"""The field of Python's interrupt state for what only TypeScript has. Python's SDK ignores it."""


def convert_interrupt_id(interrupt_id: str, name: str, *, to: Dialect) -> str:
    """Translate the id of an interrupt, to answer in one SDK what the other has asked.

    An agent that is restored in the other language knows its interrupts by the ids of that
    language. Code that kept the id from the first agent's result translates it before answering.

    Args:
        interrupt_id: The id, of either SDK.
        name: The interrupt's name.
        to: The SDK that is to be answered.

    Returns:
        The id there; the same one if it is of that SDK already, or of a kind that has no
        counterpart.

    Example:
        An agent asked in TypeScript, and goes on in Python::

            there = convert_interrupt_id("tool:t-1:approve", "approve", to="python")
            agent([{"interruptResponse": {"interruptId": there, "response": "yes"}}])
    """
    in_python = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
    ends = (name, in_python) if to == "python" else (in_python, name)
    for typescript, python, of_a_call, _ in _KINDS:
        begins = (typescript, python) if to == "python" else (python, typescript)
        call = interrupt_id.removeprefix(begins[0]).removesuffix(ends[0])
        is_call = call.endswith(":") if of_a_call else not call
        if is_call and interrupt_id == begins[0] + call + ends[0]:
            return begins[1] + call + ends[1]
    return interrupt_id


def interrupts_to_python(
    state: dict[str, Any], messages: list[Any] | None
) -> tuple[dict[str, Any], list[Any] | None]:
    """Translate an interrupt state of TypeScript.

    Args:
        state: The interrupt state.
        messages: The conversation, translated already; `None` if the snapshot has none.

    Returns:
        The interrupt state, and the conversation: while tools wait in TypeScript, the message that
        called them is not yet in it; in Python it is.
    """
    changed = dict(state)
    ids: dict[str, str] = {}
    interrupts: dict[str, Any] = {}
    carried: dict[str, Any] = {}
    for old, interrupt in changed.pop("interrupts").items():
        ids[old] = new = convert_interrupt_id(old, interrupt["name"], to="python")
        interrupts[new] = {
            "id": new,
            "name": interrupt["name"],
            "reason": interrupt.get("reason"),
            "response": interrupt.get("response"),
        }
        only_there = {
            name: value
            for name, value in interrupt.items()
            if name not in interrupts[new] or (name in ("reason", "response") and value is None)
        }
        if only_there != _source_of(old):
            carried[new] = only_there
    context = changed.pop("context", {})
    if "resumeResponses" in changed:
        context = context | {"responses": _responses_to(changed.pop("resumeResponses"), ids)}
    result = {"interrupts": interrupts, "context": context, **changed}
    if carried:
        result[_CARRIED] = carried
    pending = result.pop("pendingToolExecution", None)
    if pending is not None:
        message = message_to(pending["assistantMessageData"], "python")
        result["pending_tool_execution"] = {
            "assistant_message": message,
            "completed_tool_results": [
                _result_to_python(block) for block in pending["completedToolResults"].values()
            ],
        }
        if messages is not None:
            messages = [*messages, message]
    return result, messages


def interrupts_to_typescript(
    state: dict[str, Any], messages: list[Any] | None
) -> tuple[dict[str, Any], list[Any] | None]:
    """Translate an interrupt state of Python; the other way of `interrupts_to_python`."""
    changed = dict(state)
    carried = changed.pop(_CARRIED, {})
    ids: dict[str, str] = {}
    interrupts: dict[str, Any] = {}
    for old, interrupt in changed.pop("interrupts").items():
        ids[old] = new = convert_interrupt_id(old, interrupt["name"], to="typescript")
        # There, an answer that is null is an answer.
        given = {name: value for name, value in interrupt.items() if value is not None}
        interrupts[new] = given | {"id": new} | carried.get(old, _source_of(new))
    context = dict(changed.pop("context"))
    result: dict[str, Any] = {"interrupts": interrupts}
    if "responses" in context:
        result["resumeResponses"] = _responses_to(context.pop("responses"), ids)
    if context:
        result["context"] = context
    result |= changed
    pending = result.pop("pending_tool_execution", None)
    if pending is not None:
        message = message_to(pending["assistant_message"], "typescript")
        blocks = map(_result_to_typescript, pending["completed_tool_results"])
        result["pendingToolExecution"] = {
            "assistantMessageData": message,
            "completedToolResults": {block["toolResult"]["toolUseId"]: block for block in blocks},
        }
        if messages is not None and messages[-1:] == [message]:
            messages = messages[:-1]
    return result, messages


def _result_to_typescript(result: dict[str, Any]) -> Block:
    """Convert the result of a tool that ran beside one that waits, to a block of TypeScript."""
    [block], aside = content_to_typescript([{"toolResult": result}])
    return block | {ASIDE: aside} if aside else block


def _result_to_python(block: Block) -> dict[str, Any]:
    result = {name: value for name, value in block.items() if name != ASIDE}
    [block] = content_to_python([result], block.get(ASIDE))
    changed: dict[str, Any] = block["toolResult"]
    return changed


def _responses_to(responses: list[Any], ids: dict[str, str]) -> list[Any]:
    """Convert the ids in answers that were given."""
    changed: list[Any] = []
    for answer in responses:
        response = answer["interruptResponse"]
        new = ids.get(response["interruptId"], response["interruptId"])
        changed.append(answer | {"interruptResponse": response | {"interruptId": new}})
    return changed


def _source_of(interrupt_id: str) -> dict[str, Any]:
    """The fields of an interrupt that only TypeScript has, by its id there."""
    for begin, _, _, source in _KINDS:
        if interrupt_id.startswith(begin):
            return {"source": source}
    return {}
