"""Where transcripts lie, and what bytes they are."""

import json
import math

import pytest

from snapstore import InvalidIdentifierError, SnapshotDecodeError, SnapshotEncodeError
from snapstore.integrations.claude import SnapstoreSessionStore
from snapstore.stores import MemoryObjectStore
from transcripts import DIRECTORY, KEY, PART, PROJECT, SESSION, SUBAGENT, SUMMARY, entry, part_of

ODD = [
    "a/b",
    "..",
    ".",
    "a b",
    "ü/😀",
    "%2F",
    "@snapstore",
    "a\nb",
    "-_.!~*'()",
    "part-1",
    "~",
    "x" * 200,
]


async def test_a_batch_is_one_part_of_lines(memory, in_memory):
    await in_memory.append(KEY, [entry(1), entry(2, text="Grüezi\n")])
    [part] = [key for key in memory.objects if key.startswith(DIRECTORY)]
    assert PART.fullmatch(part.removeprefix(DIRECTORY))
    lines = memory.objects[part].split(b"\n")
    assert [json.loads(line) for line in lines[:-1]] == [entry(1), entry(2, text="Grüezi\n")]
    assert lines[-1] == b""


async def test_a_subpath_is_one_segment_as_encode_uri_component_makes_it(memory, in_memory):
    await in_memory.append(SUBAGENT, [entry(1)])
    [part] = memory.objects
    directory, _, name = part.rpartition("/")
    assert directory == f"{PROJECT}/{SESSION}/subagents%2Fagent-a1b2c3"
    assert PART.fullmatch(name)


@pytest.mark.parametrize("prefix", ["p", "p/", "p///"])
async def test_slashes_that_close_the_prefix_are_taken_off(memory, prefix):
    async with SnapstoreSessionStore(memory, prefix=prefix) as store:
        await store.append(KEY, [entry(1)])
    assert {key.split("/")[0] for key in memory.objects} == {"p"}
    assert not any("//" in key for key in memory.objects)


async def test_any_text_is_an_id_and_two_never_meet(memory, in_memory):
    keys = [{"project_key": p, "session_id": s} for p in ODD for s in ODD]
    keys += [{**KEY, "subpath": subpath} for subpath in ODD]
    for number, key in enumerate(keys):
        await in_memory.append(key, [entry(number)])
    for number, key in enumerate(keys):
        assert await in_memory.load(key) == [entry(number)], key
    for project in ODD:
        sessions = await in_memory.list_sessions(project)
        assert sorted(found["session_id"] for found in sessions) == sorted(ODD)
        summaries = await in_memory.list_session_summaries(project)
        assert sorted(found["session_id"] for found in summaries) == sorted(ODD)
    # The SDK makes paths of them.
    safe = [text for text in ODD if text not in {".", ".."}]
    assert sorted(await in_memory.list_subkeys(KEY)) == sorted(safe)
    assert await in_memory.list_sessions(PROJECT) == []


async def test_odd_ids_are_kept_by_files_and_s3(store):
    for number, text in enumerate(ODD):
        await store.append(
            {"project_key": text, "session_id": text, "subpath": text}, [entry(number)]
        )
    for number, text in enumerate(ODD):
        key = {"project_key": text, "session_id": text, "subpath": text}
        assert await store.load(key) == [entry(number)], text


def calls_of(store, key):
    return store.load(key), store.append(key, [entry(1)]), store.delete(key), store.compact(key)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ({"project_key": "", "session_id": "s"}, "project_key must not be empty"),
        ({"project_key": "p", "session_id": ""}, "session_id must not be empty"),
        ({"project_key": "p", "session_id": "s", "subpath": ""}, "subpath must not be empty"),
        ({"project_key": "p", "session_id": 7}, "session_id must be a str, not a int"),
        ({"project_key": "p"}, "session_id must be a str"),
        ("p", "the key must be a dict, not a str"),
        ({"project_key": "\ud800", "session_id": "s"}, "project_key can't be written in UTF-8"),
        ({"project_key": "p" * 500, "session_id": "s" * 500}, "too long"),
        ({"project_key": "p", "session_id": "s", "subpath": "ü" * 200}, "too long"),
    ],
)
async def test_ids_that_are_none_are_refused_before_any_request(memory, in_memory, key, why):
    for call in calls_of(in_memory, key):
        with pytest.raises(InvalidIdentifierError, match=why):
            await call
    assert memory.objects == {}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"a": [1, math.nan]}, r"entries\[1\]: a\[1\]: NaN"),
        ({"a": b"secret"}, r"entries\[1\]: a: a bytes"),
        ({7: "secret"}, r"entries\[1\]: "),
        (["secret"], r"entries\[1\] must be a dict, not a list"),
    ],
)
async def test_entries_that_json_cant_carry_are_refused(memory, in_memory, wrong, why):
    with pytest.raises(SnapshotEncodeError, match=why) as failure:
        await in_memory.append(KEY, [entry(1), wrong])
    assert "secret" not in str(failure.value)
    assert memory.objects == {}


async def test_entries_load_equal(store):
    entries = [
        {"type": "x", "text": "half of an emoji: \ud83d", "big": 2**70, "float": 0.1, "none": None},
        {"type": "x", "nested": {"a": [{"b": [1, [2, []]]}]}, "": "", "line": "a\u2028b\r\nc"},
    ]
    await store.append(KEY, entries)
    assert await store.load(KEY) == entries


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        (b'{"type":"x"}\n{"secret', "line 2: it is not valid JSON"),
        (b'{"type":"x"}\n\n"secret"\n', "line 3: it is not a JSON object"),
        (b'{"secret":NaN}\n', "line 1: it is not valid JSON"),
        (b'{"type":"\xff"}\n', "line 1: it is not valid"),
        (b"", "it has no line"),
        (b"\n \n", "it has no line"),
    ],
)
async def test_a_damaged_part_is_an_error_that_names_its_key(memory, in_memory, damaged, why):
    await in_memory.append(KEY, [entry(1)])
    key = f"{DIRECTORY}part-1700000000000-abcdef.jsonl"
    memory.objects[key] = damaged
    with pytest.raises(SnapshotDecodeError, match=why) as failure:
        await in_memory.load(KEY)
    assert failure.value.key == key
    assert key in str(failure.value)
    assert "secret" not in str(failure.value)


async def test_what_is_no_part_is_left_alone(memory, in_memory):
    memory.objects[f"{DIRECTORY}notes.txt"] = b"not JSON"
    memory.objects[f"{DIRECTORY}part-1.jsonl"] = b"not JSON"
    memory.objects["notes.txt"] = b"not JSON"
    assert await in_memory.load(KEY) is None
    assert await in_memory.list_sessions(PROJECT) == []
    assert await in_memory.list_subkeys(KEY) == []


async def test_subagents_that_the_adapter_for_python_nested_are_read(memory, in_memory):
    nested = f"{DIRECTORY}{SUBAGENT['subpath']}/"
    memory.objects[f"{nested}part-1700000000000-abcdef.jsonl"] = part_of(entry(1))
    assert await in_memory.list_subkeys(KEY) == [SUBAGENT["subpath"]]
    assert await in_memory.load(SUBAGENT) == [entry(1)]
    assert await in_memory.load(KEY) is None
    await in_memory.append(SUBAGENT, [entry(2)])
    assert await in_memory.load(SUBAGENT) == [entry(1), entry(2)]
    assert await in_memory.list_subkeys(KEY) == [SUBAGENT["subpath"]]
    await in_memory.delete(SUBAGENT)
    assert memory.objects == {}


async def test_a_damaged_summary_is_left_out_and_made_again(memory, in_memory, caplog):
    await in_memory.append(KEY, [entry(1, customTitle="first")])
    memory.objects[SUMMARY] = b'{"secret'
    assert await in_memory.list_session_summaries(PROJECT) == []
    assert SUMMARY in caplog.text
    assert "secret" not in caplog.text
    async with SnapstoreSessionStore(memory) as other:
        await other.append(KEY, [entry(2)])
        [summary] = await other.list_session_summaries(PROJECT)
    assert summary["data"]["custom_title"] == "first"


def test_a_store_needs_no_loop_to_be_made():
    SnapstoreSessionStore(MemoryObjectStore()).close()
