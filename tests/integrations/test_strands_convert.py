"""Snapshots of one Strands SDK become those of the other, and come back as they were.

No SDK is needed here; `tests/strands` has real agents of both.
"""

import json
import subprocess
import sys
import uuid
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples import examples
from snapstore import SnapshotDecodeError, SnapshotEncodeError, SnapstoreError
from snapstore.encoding.validation import MAX_DEPTH
from snapstore.integrations.strands import (
    convert_interrupt_id,
    convert_snapshot,
    is_snapshot_key,
)
from snapstore.testing.samples import CANARY, everything_said_by

GOLDEN = [
    path
    for sdk in ("python", "typescript")
    for path in sorted((Path(__file__).parents[1] / "golden" / sdk).rglob("snapshot_*.json"))
]
CREATED_AT = "2026-11-22T11:13:20.395Z"
OTHER = {"python": "typescript", "typescript": "python"}


def document_of(dialect, data, scope="agent", app_data=None):
    names = ("schemaVersion", "createdAt", "appData")
    if dialect == "python":
        names = ("schema_version", "created_at", "app_data")
    values = dict(zip(names, ("1.0", CREATED_AT, app_data or {}), strict=True))
    return json.dumps({"scope": scope, "data": data, **values}).encode()


def exactly(document):
    """A document as text that differs where a value or its type does, and not by order."""
    return json.dumps(json.loads(document), sort_keys=True)


def converted(dialect, data, scope="agent"):
    """Data of this dialect, as data of the other."""
    document = convert_snapshot(document_of(dialect, data, scope), OTHER[dialect])
    return json.loads(document)["data"]


def hashed(name):
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


# The same in the words of both

BYTES = {"__bytes_encoded__": True, "data": "iVBORwD/"}
JSON_LIKE_BLOCKS = {
    "source": {"bytes": "AAAA"},
    "trackingId": "t",
    "reasoning": {"text": "x"},
    "marker": {"__bytes_encoded__": True, "data": "AA=="},
}

BLOCKS = {
    "text": ({"text": "Grüezi 🌧️"}, {"text": "Grüezi 🌧️"}),
    "a tool use": (
        {"toolUse": {"name": "n", "toolUseId": "t", "input": JSON_LIKE_BLOCKS}},
        {"toolUse": {"name": "n", "toolUseId": "t", "input": JSON_LIKE_BLOCKS}},
    ),
    "a tool result": (
        {
            "toolResult": {
                "toolUseId": "t",
                "status": "success",
                "content": [
                    {"json": JSON_LIKE_BLOCKS},
                    {"image": {"format": "png", "source": {"bytes": "iVBORwD/"}}},
                ],
            }
        },
        {
            "toolResult": {
                "toolUseId": "t",
                "status": "success",
                "content": [
                    {"json": JSON_LIKE_BLOCKS},
                    {"image": {"format": "png", "source": {"bytes": BYTES}}},
                ],
            }
        },
    ),
    "a document": (
        {"document": {"name": "d", "format": "pdf", "source": {"bytes": "iVBORwD/"}}},
        {"document": {"name": "d", "format": "pdf", "source": {"bytes": BYTES}}},
    ),
    "a video in S3": (
        {"video": {"format": "mp4", "source": {"location": {"type": "s3", "uri": "s3://b/k"}}}},
        {"video": {"format": "mp4", "source": {"location": {"type": "s3", "uri": "s3://b/k"}}}},
    ),
    "an image by URL, which Python does not know": (
        {"image": {"format": "png", "source": {"url": "https://example.com/a.png"}}},
        {"image": {"format": "png", "source": {"url": "https://example.com/a.png"}}},
    ),
    "thoughts": (
        {"reasoning": {"text": "Hm.", "signature": "s"}},
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}},
    ),
    "thoughts that are hidden": (
        {"reasoning": {"redactedContent": "iVBORwD/"}},
        {"reasoningContent": {"redactedContent": BYTES}},
    ),
    "a cache point": (
        {"cachePoint": {"cacheType": "default", "ttl": "5m"}},
        {"cachePoint": {"type": "default", "ttl": "5m"}},
    ),
    "an image to guard": (
        {"guardContent": {"image": {"format": "png", "source": {"bytes": "iVBORwD/"}}}},
        {"guardContent": {"image": {"format": "png", "source": {"bytes": BYTES}}}},
    ),
    "a text to guard": (
        {"guardContent": {"text": {"text": "Hm.", "qualifiers": ["query"]}}},
        {"guardContent": {"text": {"text": "Hm.", "qualifiers": ["query"]}}},
    ),
    "citations": (
        {
            "citations": {
                "content": [{"text": "It rains."}],
                "citations": [
                    {
                        "location": {"type": "documentChar", "documentIndex": 0, "start": 1},
                        "source": "s",
                        "title": "t",
                    },
                    {"location": {"type": "searchResult", "searchResultIndex": 0}},
                    {"location": {"type": "web", "url": "https://example.com"}},
                    {"location": {"type": "somewhere else"}},
                    {"title": "nowhere"},
                ],
            }
        },
        {
            "citationsContent": {
                "content": [{"text": "It rains."}],
                "citations": [
                    {
                        "location": {"documentChar": {"documentIndex": 0, "start": 1}},
                        "source": "s",
                        "title": "t",
                    },
                    {"location": {"searchResultLocation": {"searchResultIndex": 0}}},
                    {"location": {"web": {"url": "https://example.com"}}},
                    {"location": {"type": "somewhere else"}},
                    {"title": "nowhere"},
                ],
            }
        },
    ),
    "an image that is neither bytes nor known": (
        {"image": {"format": "png", "source": {"bytes": None}}},
        {"image": {"format": "png", "source": {"bytes": None}}},
    ),
}
"""Each block in TypeScript, and the same in Python."""


@pytest.mark.parametrize(("typescript", "python"), BLOCKS.values(), ids=BLOCKS)
def test_a_block_has_its_counterpart(typescript, python):
    assert converted("typescript", message_of(typescript)) == message_of(python)
    assert converted("python", message_of(python)) == message_of(typescript)


def message_of(*content, **fields):
    return {"messages": [{"role": "user", "content": list(content), **fields}]}


def test_a_block_that_is_not_known_yet_stays_in_python():
    hologram = message_of({"hologram": {"a": 1}})

    assert converted("typescript", hologram) == hologram


# What TypeScript's SDK can't restore

STANDS_FOR = {"text": "[content that only Python can restore]"}
AUDIO = {"audio": {"format": "mp3", "source": {"bytes": BYTES}}}
NOT_RESTORED = {
    "an empty block": ({}, None),
    "a kind that it does not know": ({"hologram": {"a": 1}}, STANDS_FOR),
    "a block that is no object": (None, STANDS_FOR),
    "a tool use that is none": ({"toolUse": None}, STANDS_FOR),
    "a tool result without content": ({"toolResult": {"toolUseId": "t"}}, STANDS_FOR),
    "thoughts that are none": ({"reasoningContent": None}, STANDS_FOR),
    "a cache point that is none": ({"cachePoint": None}, None),
    "nothing to guard": ({"guardContent": {}}, STANDS_FOR),
    "two things to guard": (
        {"guardContent": {"text": {"text": "x"}, "image": {"source": {"bytes": BYTES}}}},
        STANDS_FOR,
    ),
    "an image to guard without a source": ({"guardContent": {"image": {"a": 1}}}, STANDS_FOR),
    "citations that are none": ({"citationsContent": None}, STANDS_FOR),
    **{
        f"{kind} {why}": ({kind: value}, STANDS_FOR)
        for kind in ("audio", "image", "video", "document")
        for why, value in {
            "that is none": None,
            "without a source": {"format": "x", "name": "n"},
            "whose source is none": {"format": "x", "source": None},
            "with an empty source": {"format": "x", "source": {}},
            "whose location is none": {"format": "x", "source": {"location": None}},
        }.items()
    },
    "a document of parts that are none": (
        {"document": {"source": {"content": [{"text": "x"}, None]}}},
        STANDS_FOR,
    ),
}
"""What Python may have in a message, and what TypeScript gets instead; `None` for nothing."""


@pytest.mark.parametrize(("block", "stand_in"), NOT_RESTORED.values(), ids=NOT_RESTORED)
def test_convert_sets_aside_what_typescript_cannot_restore(block, stand_in):
    before, behind = {"text": "before"}, {"text": "behind"}
    python = message_of(before, block, behind)

    there = converted("python", python)

    [message] = there["messages"]
    assert message["content"] == [before, *([stand_in] if stand_in else []), behind]
    assert message["metadata"].keys() == {"python_content"}
    assert converted("typescript", there) == python


@pytest.mark.parametrize(
    "block",
    [AUDIO, {}, {"cachePoint": {"type": "default"}}, {"toolUse": {"name": "n"}}, {"hologram": 1}],
)
def test_the_same_goes_for_the_content_of_a_tools_result(block):
    def result(*content):
        return {"toolResult": {"toolUseId": "t", "status": "success", "content": list(content)}}

    python = message_of({}, result({"text": "a"}, block, {"json": {"a": 1}}, block), AUDIO)

    there = converted("python", python)

    silent = block == {} or "cachePoint" in block
    stand_ins = [] if silent else [STANDS_FOR]
    assert there["messages"][0]["content"] == [
        result({"text": "a"}, *stand_ins, {"json": {"a": 1}}, *stand_ins),
        {"audio": {"format": "mp3", "source": {"bytes": "iVBORwD/"}}},
    ]
    assert converted("typescript", there) == python


@pytest.mark.parametrize("metadata", [{}, None, {"usage": {"inputTokens": 1}, "custom": {}}])
def test_the_metadata_of_the_message_is_the_same_there_and_back(metadata):
    python = message_of({}, metadata=metadata)

    there = converted("python", python)

    assert there["messages"][0]["metadata"].items() >= (metadata or {}).items()
    assert converted("typescript", there) == python


def test_a_system_prompt_keeps_its_words():
    prompt = [
        {"text": "Be brief."},
        {"type": "text", "text": "Be kind."},
        {"image": {"format": "png", "source": {"bytes": BYTES}}},
        {"guardContent": {"text": {"text": "x"}}},
        {"cachePoint": {"type": "default"}},
        {},
    ]
    there = converted("python", {"system_prompt": prompt})

    # TypeScript takes what has a type for a block of its own, and then can't save it.
    assert there["systemPrompt"] == [
        {"text": "Be brief."},
        {"text": "Be kind."},
        STANDS_FOR,
        {"guardContent": {"text": {"text": "x"}}},
        {"cachePoint": {"cacheType": "default"}},
    ]
    assert converted("typescript", there) == {"system_prompt": prompt}


def test_what_typescript_has_removed_does_not_come_back():
    result = {"toolUseId": "t", "status": "success", "content": [{"text": "a"}, AUDIO]}
    there = converted("python", message_of({"toolResult": result}, {"hologram": 1}))
    [message] = there["messages"]
    message["content"][0]["toolResult"]["content"] = [{"text": "redacted"}]
    message["content"][1] = {"text": "redacted"}

    result["content"] = [{"text": "redacted"}]
    assert converted("typescript", there) == message_of(
        {"toolResult": result}, {"text": "redacted"}
    )
    message["content"] = []
    assert converted("typescript", there) == message_of()


def test_a_tool_result_that_waits_for_an_answer_carries_it_too():
    done = {"toolUseId": "t-0", "status": "success", "content": [AUDIO, {"text": "done"}, {}]}
    pending = {"assistant_message": ASSISTANT[1], "completed_tool_results": [done]}
    asked = {
        "interrupts": {},
        "context": {},
        "activated": True,
        "pending_tool_execution": pending,
    }
    python = {"messages": [ASSISTANT[1]], "interrupt_state": asked}

    there = converted("python", python)

    waiting = there["interrupts"]["pendingToolExecution"]["completedToolResults"]["t-0"]
    assert waiting["toolResult"]["content"] == [STANDS_FOR, {"text": "done"}]
    assert converted("typescript", there) == python


ASSISTANT = (
    {
        "role": "assistant",
        "content": [{"toolUse": {"name": "n", "toolUseId": "t-1", "input": {}}}],
        "trackingId": "2",
    },
    {
        "role": "assistant",
        "content": [{"toolUse": {"name": "n", "toolUseId": "t-1", "input": {}}}],
        "tracking_id": "2",
    },
)
DONE = {"toolUseId": "t-0", "status": "success", "content": [{"text": "done"}]}

TYPESCRIPT = {
    "messages": [
        {
            "role": "user",
            "content": [{"text": "Hi"}],
            "trackingId": "1",
            "metadata": {"usage": {"inputTokens": 1}, "custom": {"trackingId": "x"}},
        }
    ],
    "state": JSON_LIKE_BLOCKS | {"system_prompt": 1},
    "systemPrompt": [{"text": "Be brief."}, {"cachePoint": {"cacheType": "default"}}],
    "modelState": {"responseId": "r-1", "other": [1]},
    "stash": {"location": "external", "storageType": "S3Storage"},
    "interrupts": {
        "interrupts": {
            "tool:t-1:approve": {
                "id": "tool:t-1:approve",
                "name": "approve",
                "reason": {"price": 3},
                "source": "tool",
            },
            "hook:beforeToolCall:t-2:allow": {
                "id": "hook:beforeToolCall:t-2:allow",
                "name": "allow",
                "response": "yes",
                "source": "hook",
            },
        },
        "resumeResponses": [
            {
                "interruptResponse": {
                    "interruptId": "hook:beforeToolCall:t-2:allow",
                    "response": "yes",
                }
            }
        ],
        "activated": True,
        "pendingToolExecution": {
            "assistantMessageData": ASSISTANT[0],
            "completedToolResults": {"t-0": {"toolResult": DONE}},
        },
    },
}
APPROVE = f"v1:tool_call:t-1:{hashed('approve')}"
ALLOW = f"v1:before_tool_call:t-2:{hashed('allow')}"
PYTHON = {
    "messages": [
        {
            "role": "user",
            "content": [{"text": "Hi"}],
            "tracking_id": "1",
            "metadata": {"usage": {"inputTokens": 1}, "custom": {"trackingId": "x"}},
        },
        ASSISTANT[1],
    ],
    "state": JSON_LIKE_BLOCKS | {"system_prompt": 1},
    "system_prompt": [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}],
    "model_state": {"response_id": "r-1", "other": [1]},
    "stash": {"location": "external", "storage_type": "S3Storage"},
    "interrupt_state": {
        "interrupts": {
            APPROVE: {"id": APPROVE, "name": "approve", "reason": {"price": 3}, "response": None},
            ALLOW: {"id": ALLOW, "name": "allow", "reason": None, "response": "yes"},
        },
        "context": {
            "responses": [{"interruptResponse": {"interruptId": ALLOW, "response": "yes"}}]
        },
        "activated": True,
        "pending_tool_execution": {
            "assistant_message": ASSISTANT[1],
            "completed_tool_results": [DONE],
        },
    },
}


def test_a_whole_agent_has_its_counterpart():
    assert converted("typescript", TYPESCRIPT) == PYTHON
    assert converted("python", PYTHON) == TYPESCRIPT


def test_the_envelope_is_spelled_as_the_other_sdk_does():
    for dialect, other in OTHER.items():
        document = document_of(dialect, {"state": {}}, app_data={"createdAt": "mine"})
        there = convert_snapshot(document, other)
        assert json.loads(there) == json.loads(
            document_of(other, {"state": {}}, app_data={"createdAt": "mine"})
        )


def test_what_has_no_counterpart_keeps_its_name():
    only_in_python = {
        "conversation_manager_state": {"__name__": "Sliding", "removed_message_count": 2},
    }
    assert converted("python", only_in_python) == only_in_python

    asked = {"interrupts": {}, "context": {"tool": 1}, "activated": False}
    there = converted("python", {"interrupt_state": asked})
    assert there == {"interrupts": asked}

    # What says nothing in TypeScript would be an error in Python.
    assert converted("typescript", {"interrupts": None}) == {"interrupts": None}
    assert converted("typescript", {"systemPrompt": None}) == {"system_prompt": None}


def test_stash_in_a_snapshot_is_left_as_it_is():
    entries = {"call_0": {"image": {"format": "png", "source": {"bytes": "iVBORwD/"}}}, "b": None}
    stash = {"stash": {"location": "inline", "entries": entries}}

    for dialect in OTHER:
        assert converted(dialect, stash) == stash


def test_what_only_typescript_knows_of_an_interrupt_is_beside_it():
    asked = {
        "tool:t:a": {"id": "tool:t:a", "name": "a", "reason": None, "source": "tool"},
        "tool:t:b": {"id": "tool:t:b", "name": "b"},
        "elsewhere": {"id": "elsewhere", "name": "c", "source": "multiagent-hook"},
    }
    there = converted("typescript", {"interrupts": {"interrupts": asked, "activated": True}})

    state = there["interrupt_state"]
    for interrupt in state["interrupts"].values():
        assert interrupt.keys() == {"id", "name", "reason", "response"}
    in_a, in_b = (f"v1:tool_call:t:{hashed(name)}" for name in "ab")
    assert state["typescript"] == {
        in_a: {"reason": None, "source": "tool"},
        in_b: {},
        "elsewhere": {"source": "multiagent-hook"},
    }
    assert converted("python", there)["interrupts"]["interrupts"] == asked


def test_the_progress_of_an_orchestrator_is_put_aside():
    progress = {"steps": 2, "nodes": {"a": {}}}
    in_python = {"orchestrator_id": "g", "state": {}, "typescript_state": progress}
    assert converted("typescript", {"orchestratorId": "g", "state": progress}, "multiAgent") == (
        in_python
    )
    assert converted("python", in_python, "multiAgent") == {
        "orchestratorId": "g",
        "state": progress,
    }

    in_typescript = {"orchestratorId": "g", "python_state": {"type": "graph"}}
    assert converted(
        "python", {"orchestrator_id": "g", "state": {"type": "graph"}}, "multiAgent"
    ) == (in_typescript)
    assert converted("typescript", in_typescript, "multiAgent")["state"] == {"type": "graph"}


# Ids of interrupts

IDS = [
    ("tool:t-1:a", f"v1:tool_call:t-1:{hashed('a')}", "a"),
    ("hook:beforeToolCall:t-1:a", f"v1:before_tool_call:t-1:{hashed('a')}", "a"),
    ("hook:beforeTools:a", f"v1:before_tools:{hashed('a')}", "a"),
    ("middleware:executeTool:t-1:a", f"v1:middleware_execute_tool:t-1:{hashed('a')}", "a"),
    ("middleware:agentStream:a", f"v1:middleware_agent_stream:{hashed('a')}", "a"),
    ("tool:t:1:a:b:", f"v1:tool_call:t:1:{hashed('a:b:')}", "a:b:"),
    ("tool:t-1:", f"v1:tool_call:t-1:{hashed('')}", ""),
]


@pytest.mark.parametrize(("typescript", "python", "name"), IDS)
def test_an_interrupt_has_an_id_in_each_sdk(typescript, python, name):
    assert convert_interrupt_id(typescript, name, to="python") == python
    assert convert_interrupt_id(python, name, to="typescript") == typescript
    assert convert_interrupt_id(python, name, to="python") == python
    assert convert_interrupt_id(typescript, name, to="typescript") == typescript


@pytest.mark.parametrize(
    "interrupt_id", ["", "a", "tool:a", "tool:t-1:b", "hook:beforeTools:ba", "v1:tool_call:t-1:a"]
)
def test_an_id_of_another_kind_stays(interrupt_id):
    for to in OTHER:
        assert convert_interrupt_id(interrupt_id, "a", to=to) == interrupt_id


# There and back

words = st.text(st.characters(codec="utf-8"), max_size=6)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(words, values, max_size=3)
encoded = st.binary(max_size=6).map(lambda data: b64encode(data).decode())


def fields(optional=None, **required):
    return st.fixed_dictionaries(required, optional=optional or {})


def of(name, inner):
    return fields(**{name: inner})


def blocks_of(dialect):
    """Content as an SDK writes it."""
    python = dialect == "python"
    data = fields(__bytes_encoded__=st.just(True), data=encoded) if python else encoded
    source = of("bytes", data) | of("location", fields(type=st.just("s3"), uri=words))
    media = st.one_of(
        of(kind, fields(format=words, source=source))
        for kind in ("image", "video", "audio", "document")
    )
    text = of("text", words)
    odd = st.just({}) | of("hologram", values) if python else st.nothing()
    cache_point = of(
        "cachePoint", fields({"ttl": words}, **{"type" if python else "cacheType": words})
    )
    parts = [text, of("json", values), *([media, cache_point, odd] if python else [])]
    result = fields(
        toolUseId=words,
        status=st.sampled_from(["success", "error"]),
        content=st.lists(st.one_of(parts), max_size=3),
    )
    thought = {"text": words, "signature": words | st.none()}
    hidden = {"redactedContent": data}
    if python:
        parts = fields(thought).filter(bool)
        thoughts = of("reasoningContent", fields({"reasoningText": parts, **hidden}))
    else:
        thoughts = of("reasoning", fields(thought | hidden))
    indices = {"documentIndex": st.integers(0, 9), "start": st.integers(0, 9)}
    places = st.sampled_from(["documentChar", "documentPage", "documentChunk", "web"])
    location = st.tuples(places, fields(**indices)).map(
        lambda found: {found[0]: found[1]} if python else {"type": found[0], **found[1]}
    )
    citations = fields(
        citations=st.lists(fields({"title": words}, location=location), max_size=2),
        content=st.lists(text, max_size=1),
    )
    return st.one_of(
        text,
        media,
        thoughts,
        of("toolUse", fields(name=words, toolUseId=words, input=values)),
        of("toolResult", result),
        cache_point,
        odd,
        of("citationsContent" if python else "citations", citations),
    )


def messages_of(dialect):
    tracking = "tracking_id" if dialect == "python" else "trackingId"
    return fields(
        {tracking: st.uuids().map(str), "metadata": objects},
        role=st.sampled_from(["user", "assistant"]),
        content=st.lists(blocks_of(dialect), max_size=3),
    )


@st.composite
def agents(draw, dialect):
    """What an SDK writes of an agent."""
    python = dialect == "python"
    prompt, model, asked = (
        ("system_prompt", "model_state", "interrupt_state")
        if python
        else ("systemPrompt", "modelState", "interrupts")
    )
    response = "response_id" if python else "responseId"
    prompts = blocks_of(dialect) if python else of("text", words)
    some = {
        prompt: st.none() | words | st.lists(prompts, max_size=2),
        model: fields({response: words}),
        "state": objects,
        "messages": st.lists(messages_of(dialect), max_size=3),
    }
    if python:
        some |= {"conversation_manager_state": objects}
    storage_type = "storage_type" if python else "storageType"
    some["stash"] = fields({storage_type: words, "entries": objects}, location=words)
    data = draw(fields(some))
    if draw(st.booleans()):
        data[asked] = draw(interrupts_of(dialect))
        pending = data[asked].get("pending_tool_execution")
        if pending and "messages" in data:
            # There, the message that called the tools is a part of the conversation.
            data["messages"].append(pending["assistant_message"])
    elif not python and draw(st.booleans()):
        data[asked] = None
    return data


@st.composite
def interrupts_of(draw, dialect):
    python = dialect == "python"
    begins = (
        ["v1:tool_call:t:", "v1:before_tools:", "v1:before_node_call:n:"]
        if python
        else ["tool:t:", "hook:beforeTools:", "multiagent-hook:"]
    )
    asked = {}
    for name in draw(st.lists(words, max_size=2, unique=True)):
        key = draw(st.sampled_from(begins)) + (hashed(name) if python else name)
        known = {"reason": values, "response": values}
        if python:
            asked[key] = draw(fields(id=st.just(key), name=st.just(name), **known))
        else:
            some = known | {"source": st.sampled_from(["tool", "hook", "multiagent-hook"])}
            asked[key] = draw(fields(some, id=st.just(key), name=st.just(name)))
    ids = st.sampled_from([*asked, "unknown"])
    answer = of("interruptResponse", fields(interruptId=ids, response=values))
    answers = st.lists(answer, max_size=2)
    state = {"interrupts": asked, "activated": draw(st.booleans())}
    message = messages_of(dialect)
    result = blocks_of(dialect).filter(lambda block: "toolResult" in block)
    results = draw(st.lists(result, max_size=2, unique_by=lambda it: it["toolResult"]["toolUseId"]))
    if python:
        state["context"] = draw(fields({"responses": answers, "other": values}))
        if draw(st.booleans()):
            state["pending_tool_execution"] = {
                "assistant_message": draw(message),
                "completed_tool_results": [block["toolResult"] for block in results],
            }
    else:
        if draw(st.booleans()):
            state["resumeResponses"] = draw(answers)
        if draw(st.booleans()):
            state["pendingToolExecution"] = {
                "assistantMessageData": draw(message),
                "completedToolResults": {
                    block["toolResult"]["toolUseId"]: block for block in results
                },
            }
    return state


@pytest.mark.parametrize("dialect", OTHER)
@examples(150)
@given(data=st.data())
def test_an_agent_is_the_same_there_and_back(dialect, data):
    document = document_of(dialect, data.draw(agents(dialect)), app_data=data.draw(objects))

    there = convert_snapshot(document, OTHER[dialect])

    assert convert_snapshot(document, dialect) == document
    assert convert_snapshot(there, OTHER[dialect]) == there
    assert exactly(convert_snapshot(there, dialect)) == exactly(document)


@pytest.mark.parametrize("dialect", OTHER)
def test_a_pending_message_that_equals_the_last_one_is_not_lost(dialect):
    message = {"role": "assistant", "content": []}
    python = {"assistant_message": message, "completed_tool_results": []}
    typescript = {"assistantMessageData": message, "completedToolResults": {}}
    data = {
        "python": {
            "messages": [message, message],
            "interrupt_state": {
                "interrupts": {},
                "context": {},
                "activated": True,
                "pending_tool_execution": python,
            },
        },
        "typescript": {
            "messages": [message],
            "interrupts": {
                "interrupts": {},
                "activated": True,
                "pendingToolExecution": typescript,
            },
        },
    }
    document = document_of(dialect, data[dialect])

    there = convert_snapshot(document, OTHER[dialect])

    assert len(json.loads(there)["data"]["messages"]) == (1 if dialect == "python" else 2)
    assert exactly(convert_snapshot(there, dialect)) == exactly(document)


@pytest.mark.parametrize("dialect", OTHER)
@examples(150)
@given(state=objects)
def test_an_orchestrator_is_the_same_there_and_back(dialect, state):
    name = "orchestrator_id" if dialect == "python" else "orchestratorId"
    data = {name: "g"} | ({"state": state} if state or dialect == "python" else {})
    document = document_of(dialect, data, "multiAgent")

    there = convert_snapshot(document, OTHER[dialect])

    assert exactly(convert_snapshot(there, dialect)) == exactly(document)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: "/".join(path.parts[-6:]))
def test_what_an_sdk_wrote_is_the_same_there_and_back(path):
    document = path.read_bytes()
    dialect = "python" if b'"schema_version"' in document else "typescript"

    assert convert_snapshot(document, dialect) == document
    there = convert_snapshot(document, OTHER[dialect])

    # One of them has an emoji that is cut in half.
    whole = document.replace(rb"\ud83d", rb"\ufffd")
    assert exactly(convert_snapshot(there, dialect)) == exactly(whole)
    assert (whole != document) == ("odd" in path.parts)


# Halves of surrogate pairs


def test_half_an_emoji_is_a_replacement_character_for_python():
    text = rb'"a\\\ud83c b\\ud83c c\ud83c\udf27 d\uD83C e\udf27\ud83c f\n\"" '
    document = document_of("typescript", {"state": {"text": "?", "\ud83c": 1}})
    document = document.replace(b'"?"', text)

    there = convert_snapshot(document, "python")

    assert json.loads(there.decode())["data"]["state"] == {
        "text": 'a\\\ufffd b\\ud83c c🌧 d\ufffd e\ufffd\ufffd f\n"',
        "\ufffd": 1,
    }
    assert convert_snapshot(document, "typescript") == document


def test_half_an_emoji_stays_one_for_typescript():
    document = document_of("python", {"state": {"cut": "\ud83c"}})

    assert json.loads(convert_snapshot(document, "typescript"))["data"] == {
        "state": {"cut": "\ud83c"}
    }


# What is not a snapshot


def result_of(value):
    content = [{"text": "x"}, {"toolResult": {"toolUseId": "t", "content": [{"json": value}]}}]
    return message_of(*content)


INEXACT = {
    "NaN": (float("nan"), "NaN"),
    "an infinity": ({"low": [-float("inf")]}, "Infinity"),
    "too many levels": (json.loads("[" * 300 + "]" * 300), "more than 200 objects and lists deep"),
}


@pytest.mark.parametrize(("value", "why"), INEXACT.values(), ids=INEXACT)
def test_convert_keeps_what_json_cannot_carry_in_python(value, why):
    document = document_of("python", result_of(value))

    assert convert_snapshot(document, "python") == document
    with pytest.raises(SnapshotEncodeError) as refused:
        convert_snapshot(document, "typescript")

    path, _, reason = str(refused.value).partition(": ")
    assert path.startswith("data.messages[0].content[1].toolResult.content[0].json")
    assert reason == why
    assert refused.value.__context__ is None


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (
            {"messages": [{"role": "user", "content": []}, {"content": "canary"}]},
            "data.messages[1]",
        ),
        ({"messages": [{"role": "user", "content": []}, "canary"]}, "data.messages[1]"),
        ({"messages": None}, "data.messages"),
        ({"system_prompt": {"canary": 1}}, "data.system_prompt"),
        ({"interrupt_state": {"canary": 1}}, "data.interrupt_state"),
    ],
)
def test_convert_of_what_python_never_writes_is_an_error(data, path):
    with pytest.raises(SnapshotEncodeError) as refused:
        convert_snapshot(document_of("python", data), "typescript")

    assert str(refused.value) == f"{path}: not as an SDK writes it"
    assert not [said for said in everything_said_by(refused.value) if CANARY in said]


def unlike(data, dialect="typescript", **envelope):
    document = json.loads(document_of(dialect, data)) | envelope
    return json.dumps(document).encode()


BROKEN = {
    "nothing": b"",
    "no JSON": CANARY.encode(),
    "a part": document_of("typescript", {"state": {"text": CANARY}})[:-1],
    "no UTF-8": document_of("typescript", {"state": {"text": CANARY}}).replace(b"canary", b"\xff"),
    "a list": f'["{CANARY}"]'.encode(),
    "no envelope": f'{{"{CANARY}": 1}}'.encode(),
    "both envelopes": unlike({"state": CANARY}, created_at=CREATED_AT),
    "no data": json.dumps({"schemaVersion": "1.0", "createdAt": CANARY}).encode(),
    "no data in its own dialect": json.dumps({"created_at": CANARY}).encode(),
    "another scope": unlike({}, scope=CANARY),
    "too deep": unlike({"state": "?"}).replace(b'"?"', b"[" * 200_000 + b"]" * 200_000),
    "messages that are text": unlike({"messages": CANARY}),
    "a message that is text": unlike({"messages": [CANARY]}),
    "a message without content": unlike({"messages": [{"role": CANARY}]}),
    "content that is text": unlike({"messages": [{"content": CANARY}]}),
    "an image without a source": unlike({"messages": [{"content": [{"image": {CANARY: 1}}]}]}),
    "interrupts that are text": unlike({"interrupts": CANARY}),
    "interrupts without a name": unlike({"interrupts": {"interrupts": {CANARY: {"id": CANARY}}}}),
}


@pytest.mark.parametrize("document", BROKEN.values(), ids=BROKEN)
def test_what_is_no_snapshot_is_refused_without_a_word_of_it(document):
    with pytest.raises(SnapshotDecodeError) as refused:
        convert_snapshot(document, "python")

    assert str(refused.value).startswith("the document is not a snapshot: ")
    assert refused.value.key is None
    assert not [said for said in everything_said_by(refused.value) if CANARY in said]


def test_what_the_sdk_lets_be_absent_may_be_absent():
    content = [{"citationsContent": {"content": [{"text": "x"}]}}, {"document": {"name": "x"}}]
    document = document_of("python", {"messages": [{"role": "user", "content": content}]})

    there = convert_snapshot(document, "typescript")

    assert json.loads(convert_snapshot(there, "python")) == json.loads(document)


def test_what_becomes_too_deep_is_refused():
    def thinking(depth):
        deep = {"reasoning": {"text": json.loads("[" * depth + "]" * depth)}}
        return document_of("typescript", {"messages": [{"role": "user", "content": [deep]}]})

    # Python's shape has one object more around the text.
    assert convert_snapshot(thinking(MAX_DEPTH - 8), "python")
    with pytest.raises(SnapshotEncodeError, match="deep"):
        convert_snapshot(thinking(MAX_DEPTH - 7), "python")


def test_there_are_two_dialects():
    with pytest.raises(ValueError, match="to must be"):
        convert_snapshot(document_of("python", {}), "rust")


@pytest.mark.parametrize("dialect", OTHER)
@examples(150)
@given(data=objects)
@example(data={"messages": [{"content": [{"citations": {"citations": [{"location": [{}]}]}}]}]})
@example(data={"interrupts": {"interrupts": {"a": {"name": "\ud83c"}}}})
@example(data={"interrupt_state": {"interrupts": {"a": {"name": "\ud83c"}}, "context": {}}})
def test_any_object_is_converted_or_refused_in_words(dialect, data):
    names = ["messages", "systemPrompt", "interrupts", "interrupt_state", "model_state", "state"]
    keyed = dict(zip(names, data.values(), strict=False)) | data
    for scope in ("agent", "multiAgent"):
        try:
            convert_snapshot(document_of(dialect, keyed, scope), OTHER[dialect])
        except SnapstoreError as error:
            assert error.__context__ is None  # noqa: PT017 -- it need not be raised


# Keys

SNAPSHOTS = "s/scopes/agent/a/snapshots"
HISTORY_ID = "01912a3b-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    "key",
    [
        f"{SNAPSHOTS}/snapshot_latest.json",
        f"{SNAPSHOTS}/immutable_history/snapshot_{HISTORY_ID}.json",
        f"agents//session/{SNAPSHOTS}/snapshot_latest.json",
        "session/s/scopes/multiAgent/User 1/snapshots/snapshot_latest.json",
        "scopes/agent/ü/snapshots/snapshot_latest.json",
    ],
)
def test_snapshots_are_known_by_their_keys(key):
    assert is_snapshot_key(key)


@pytest.mark.parametrize(
    "key",
    [
        "",
        f"{SNAPSHOTS}/manifest.json",
        f"{SNAPSHOTS}/snapshot_latest.json.bak",
        f"{SNAPSHOTS}/snapshot_{HISTORY_ID}.json",
        f"{SNAPSHOTS}/immutable_history/{HISTORY_ID}.json",
        f"{SNAPSHOTS}/immutable_history/a/snapshot_{HISTORY_ID}.json",
        f"{SNAPSHOTS}/immutable_history/snapshot_latest.json\n",
        "s/scopes/agent/a/b/snapshots/snapshot_latest.json",
        "s/scopes/team/a/snapshots/snapshot_latest.json",
        "s/myscopes/agent/a/snapshots/snapshot_latest.json",
        "context/s/snapshot_latest.json",
        "memory/snapshot_latest.json",
    ],
)
def test_other_objects_are_left_alone(key):
    assert not is_snapshot_key(key)


def test_the_converter_needs_no_sdk():
    script = (
        "import sys; sys.modules['strands'] = None\n"
        "from snapstore.integrations.strands import convert_snapshot\n"
        "print(convert_snapshot(sys.stdin.buffer.read(), 'python').decode())"
    )
    document = document_of("typescript", {"state": {"a": 1}})
    printed = subprocess.run(
        [sys.executable, "-c", script], input=document, capture_output=True, check=True
    ).stdout
    assert json.loads(printed) == json.loads(document_of("python", {"state": {"a": 1}}))
