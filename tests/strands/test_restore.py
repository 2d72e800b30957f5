"""TypeScript's SDK restores whatever Python's has, and gives it back.

Its rules for each kind of block are held to the SDK itself here.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from snapstore import SnapshotEncodeError
from snapstore.integrations.strands import StrandsStorage, convert_snapshot

BYTES = {"__bytes_encoded__": True, "data": "iVBORwD/"}
STANDS_FOR = "[content that only Python can restore]"
LATEST = "session/session-1/scopes/agent/weather/snapshots/snapshot_latest.json"


def document_of(**data):
    envelope = {"schema_version": "1.0", "created_at": "2026-11-22T11:13:20Z", "app_data": {}}
    return json.dumps({"scope": "agent", "data": data, **envelope}).encode()


def message_of(*content):
    return {"role": "user", "content": list(content), "tracking_id": "1"}


def result_of(*content):
    return {"toolResult": {"toolUseId": "t", "status": "success", "content": list(content)}}


MEDIA = ("audio", "image", "video", "document")
MALFORMED = [
    {},
    None,
    "text",
    {"hologram": {"a": 1}},
    {"toolUse": None},
    {"toolResult": None},
    {"toolResult": {"toolUseId": "t"}},
    {"reasoningContent": None},
    {"cachePoint": None},
    {"guardContent": None},
    {"guardContent": {}},
    {"guardContent": {"text": {"text": "x"}, "image": {"source": {"bytes": BYTES}}}},
    {"guardContent": {"image": {"format": "png"}}},
    {"citationsContent": None},
    {"document": {"source": {"content": [None]}}},
    {"document": {"source": {"content": "text"}}},
    *(
        {kind: value}
        for kind in MEDIA
        for value in (
            None,
            {"format": "x", "name": "n"},
            {"source": None},
            {"source": {}},
            {"source": {"location": None}},
        )
    ),
]
ONLY_IN_MESSAGES = [
    {"audio": {"format": "mp3", "source": {"bytes": BYTES}}},
    {"cachePoint": {"type": "default"}},
    {"guardContent": {"text": {"text": "x"}}},
    {"reasoningContent": {"reasoningText": {"text": "x"}}},
    {"toolUse": {"name": "n", "toolUseId": "t", "input": {}}},
    result_of({"text": "x"}),
    {"citationsContent": {"citations": [], "content": []}},
]
WELL_FORMED = [
    {"text": "x"},
    {"image": {"format": "png", "source": {"bytes": BYTES}}},
    {"image": {"format": "png", "source": {"url": "https://example.com/a.png"}}},
    *(
        {kind: {"format": "x", "name": "n", "source": {"location": {"type": "s3", "uri": "s3:"}}}}
        for kind in MEDIA[1:]
    ),
    {"document": {"format": "txt", "name": "n", "source": {"bytes": BYTES}}},
    {"document": {"format": "txt", "name": "n", "source": {"text": "x"}}},
    {"document": {"format": "txt", "name": "n", "source": {"content": [{"text": "x"}]}}},
]
THEIR_NAMES = {"reasoningContent": "reasoning", "citationsContent": "citations"}


def as_named_there(block):
    """A block as it would be without being set aside."""
    if not isinstance(block, dict):
        return block
    return {THEIR_NAMES.get(kind, kind): value for kind, value in block.items()}


def without_stand_ins(document, *content):
    """A snapshot for TypeScript with this content in place of what its message has."""
    changed = json.loads(document)
    changed["data"]["messages"][0]["content"] = list(content)
    return json.dumps(changed).encode()


@pytest.mark.parametrize("block", MALFORMED, ids=json.dumps)
def test_what_it_can_not_restore_is_set_aside(block, restore_in_typescript):
    document = document_of(messages=[message_of({"text": "a"}, block)])

    there = convert_snapshot(document, "typescript")

    assert restore_in_typescript(there) == [None]
    [refused] = restore_in_typescript(without_stand_ins(there, as_named_there(block)))
    assert refused is not None
    assert "python_content" in there.decode()
    assert json.loads(convert_snapshot(there, "python")) == json.loads(document)


@pytest.mark.parametrize("block", [*MALFORMED, *ONLY_IN_MESSAGES], ids=json.dumps)
def test_restore_sets_aside_bad_parts_of_tool_results(block, restore_in_typescript):
    document = document_of(messages=[message_of(result_of({"text": "a"}, block, {"json": 1}))])

    there = convert_snapshot(document, "typescript")

    assert restore_in_typescript(there) == [None]
    raw = without_stand_ins(there, result_of(as_named_there(block)))
    assert restore_in_typescript(raw) != [None]
    assert json.loads(convert_snapshot(there, "python")) == json.loads(document)


@pytest.mark.parametrize("block", [*WELL_FORMED, *ONLY_IN_MESSAGES], ids=json.dumps)
def test_what_it_can_restore_is_not_set_aside(block, restore_in_typescript):
    inside = [] if block in ONLY_IN_MESSAGES else [result_of(block)]
    document = document_of(messages=[message_of(block, *inside)])

    there = convert_snapshot(document, "typescript")

    assert restore_in_typescript(there) == [None]
    assert "python_content" not in there.decode()


@pytest.mark.parametrize(
    "block",
    [*MALFORMED, *ONLY_IN_MESSAGES, *WELL_FORMED, {"type": "text", "text": "Be brief."}],
    ids=json.dumps,
)
def test_any_system_prompt_is_restored(block, restore_in_typescript):
    document = document_of(system_prompt=[{"text": "a"}, block], messages=[])

    there = convert_snapshot(document, "typescript")

    assert restore_in_typescript(there) == [None]
    assert json.loads(convert_snapshot(there, "python")) == json.loads(document)


any_value = st.sampled_from(
    [None, "x", 1, [], {}, {"a": 1}, [None], [{}], {"bytes": BYTES}, {"source": {}}]
)
any_source = st.dictionaries(
    st.sampled_from(["bytes", "location", "url", "text", "content", "other"]),
    any_value | st.just(BYTES),
    max_size=2,
)
kinds = [*{kind for block in (*WELL_FORMED, *ONLY_IN_MESSAGES) for kind in block}, "json", "other"]
any_block = st.dictionaries(
    st.sampled_from(sorted(kinds)),
    any_value
    | st.fixed_dictionaries({"source": any_source | any_value})
    | st.fixed_dictionaries({"content": st.lists(any_value, max_size=2)})
    | st.fixed_dictionaries({}, optional={"text": any_value, "image": any_value}),
    max_size=2,
)
tool_results = st.lists(any_block | any_value, max_size=2).map(lambda found: result_of(*found))
contents = st.lists(any_block | tool_results | any_value, max_size=4)


@examples(300)
@given(content=contents, prompt=contents, result=st.lists(any_block, max_size=2))
def test_any_content_is_restored_there_and_comes_back(
    content, prompt, result, restore_in_typescript
):
    waiting = {
        "assistant_message": message_of(*content),
        "completed_tool_results": [result_of(*result)["toolResult"]],
    }
    asked = {"interrupts": {}, "context": {}, "activated": True, "pending_tool_execution": waiting}
    document = document_of(
        messages=[message_of(*content)], system_prompt=prompt, interrupt_state=asked
    )

    there = convert_snapshot(document, "typescript")

    assert restore_in_typescript(there) == [None]
    assert restore_in_typescript(there.replace(b'"python_content"', b'"elsewhere"')) == [None]


async def test_restore_brings_back_what_was_set_aside(session):
    content = [message_of({"text": f"{number}"}, block) for number, block in enumerate(MALFORMED)]
    content += [message_of(result_of({"text": "x"}, block)) for block in ONLY_IN_MESSAGES]
    document = document_of(messages=content)
    with StrandsStorage(session.bucket, prefix=session.prefix, dialect="typescript") as storage:
        await storage.write(LATEST, document)
        turn = [{"id": "weather", "script": [{"content": [{"text": "Hm."}]}]}]
        there = await session.typescript(agents=turn, input="Hi")
        saved = json.loads(await storage.read(LATEST))

    told = json.dumps([message["content"] for message in there.messages])
    assert told.count(STANDS_FOR) > len(ONLY_IN_MESSAGES)
    assert saved["data"]["messages"][: len(content)] == content
    assert len(saved["data"]["messages"]) == len(content) + 2


@pytest.mark.parametrize("value", [float("nan"), json.loads("[" * 200 + "]" * 200)])
async def test_what_json_can_not_carry_is_refused_with_the_path_to_it(session, value):
    with StrandsStorage(session.bucket, prefix=session.prefix, dialect="typescript") as storage:
        await storage.write(LATEST, document_of(messages=[]))
        before = await storage.read_version(LATEST)
        for _ in range(2):
            with pytest.raises(SnapshotEncodeError, match=rf"{LATEST}: data\.messages\[1\]"):
                await storage.write(
                    LATEST, document_of(messages=[message_of(), message_of(result_of(value))])
                )
        assert await storage.read_version(LATEST) == before
