"""A snapshot is read or refused the same, however large it is and by whatever reads it."""

import asyncio
import gc
import json
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples import examples
from snapstore import (
    ObjectSnapshotStorage,
    Snapshot,
    SnapshotDecodeError,
    SnapshotLocation,
)
from snapstore.encoding import slices
from snapstore.encoding.documents import decode_document
from snapstore.encoding.envelope import (
    decode_raw_snapshot,
    decode_raw_snapshot_in_slices,
    decode_snapshot,
    decode_snapshot_in_slices,
    encode_snapshot,
)
from snapstore.encoding.slices import decode_document_in_slices
from snapstore.stores.memory import MemoryObjectStore

KEY = "key-1"
LOCATION = SnapshotLocation.agent("s", "a")


@pytest.fixture
def tiny_slices(monkeypatch):
    """Let even a small document be read in many slices, and as deep as it goes."""
    monkeypatch.setattr(slices, "_SLICE", 12)
    monkeypatch.setattr(slices, "_MANY", 2)
    monkeypatch.setattr(slices, "_WINDOW", 16)
    monkeypatch.setattr(slices, "_SCANS", 1000)
    monkeypatch.setattr(slices, "YIELD", 0)


def spelled(value):
    """A value with its types and the order of its keys; structs by their fields."""
    if hasattr(value, "__struct_fields__"):
        return repr([getattr(value, field) for field in value.__struct_fields__])
    return repr(value)


def result_of(decode, *arguments, **options):
    try:
        found = decode(*arguments, **options)
        return spelled(asyncio.run(found) if asyncio.iscoroutine(found) else found)
    except SnapshotDecodeError as error:
        return f"refused: {error}"


def agreed(body):
    """What all ways to read a body find, which must be the same."""
    document = result_of(decode_document, body, KEY, "snapshot")
    assert result_of(decode_document_in_slices, body, KEY, "snapshot") == document
    snapshot = result_of(decode_snapshot, body, key=KEY)
    assert result_of(decode_snapshot_in_slices, body, key=KEY) == snapshot
    raw = result_of(decode_raw_snapshot, body, key=KEY)
    assert result_of(decode_raw_snapshot_in_slices, body, key=KEY) == raw
    if snapshot.startswith("refused"):
        assert raw == snapshot
    else:
        assert not raw.startswith("refused")
        again = encode_snapshot(decode_snapshot(body, key=KEY), max_bytes=2**30)
        assert decode_snapshot(again, key=KEY) == decode_snapshot(body, key=KEY)
    return document


SCALARS = [
    "0", "-0", "1", "-1.5", "1e5", "1E-2", "1e400", "-1e400", "1e-400", "01", "1.", "+1",
    "9" * 30, "9" * 4300, "-" + "9" * 4300, "9" * 4301, "9" * 400 + ".0",
    "NaN", "Infinity", "-Infinity", "nan", "true", "false", "null", "None", "",
    '""', '"a"', '"\\ud83d"', '"\\ud83d\\ude00"', '"\\\\ud83d"', '"\\ud8"', '"\\x"',
    '"\\udc00\\ud83d"',
    '"[1,{"', '"]}"', '"\\"}"', '"a\\\\"', '"\n"', '"\x7f"', '"ü🌧️"', "'a'", "[", "}", ",",
]  # fmt: skip
KEYS = [
    '"a"',
    '"b"',
    '"a"',
    '""',
    '"\\u0061"',
    '"\\ud83d"',
    '"\\ud83d\\ude00"',
    '"\\"a"',
    '"a":1,"a"',
]
spaces = st.sampled_from(["", "", "", " ", "\n\t", "\r ", "\x0b"])
scalars = st.sampled_from(SCALARS) | st.builds(json.dumps, st.floats() | st.integers() | st.text())


def listed(items, space):
    return "[" + f"{space},{space}".join(items) + "]"


def paired(items, space):
    pairs = (f"{key}{space}:{space}{value}" for key, value in items)
    return "{" + f"{space},{space}".join(pairs) + f"{space}}}"


texts = st.recursive(
    scalars,
    lambda inner: (
        st.builds(listed, st.lists(inner, max_size=5), spaces)
        | st.builds(paired, st.lists(st.tuples(st.sampled_from(KEYS), inner), max_size=5), spaces)
    ),
    max_leaves=20,
)
good = st.recursive(
    st.sampled_from(["0", "-1.5e3", "null", "true", '"text"', '"\\ud83d"', '"\\n\\"{"', "9" * 40]),
    lambda inner: (
        st.builds(listed, st.lists(inner, max_size=5), spaces.filter(str.isspace) | st.just(""))
        | st.builds(
            lambda values: paired([(f'"k{n}"', value) for n, value in enumerate(values)], " "),
            st.lists(inner, max_size=5),
        )
    ),
    max_leaves=20,
)
deep = st.builds(
    lambda before, levels, text, pair: before + pair[0] * levels + text + pair[1] * levels,
    st.sampled_from(["", "[1],", '"x",']),
    st.integers(190, 205) | st.sampled_from([300, 480, 5_000]),
    st.sampled_from(["", "0", '"\\ud83d"', "NaN"]),
    st.sampled_from([("[", "]"), ('{"a":', "}"), ("[[1],", "]")]),
).map("[{}]".format)


def enveloped(value, layout):
    envelope = (
        '{"scope":"agent","schemaVersion":"1.0","createdAt":"now",'
        f'"data":{{"v":{value}}},"appData":{{}}}}'
    )
    before, after, coding = layout
    return before.encode() + envelope.encode(coding, "surrogatepass") + after.encode()


layouts = st.tuples(
    st.sampled_from(["", "", "", "\ufeff", " \n", "\ufeff\ufeff", " \ufeff"]),
    st.sampled_from(["", "", "", " \t" * 24, "\n", "x", "{}", "\x00"]),
    st.sampled_from(["utf-8"] * 8 + ["utf-16", "utf-16-le"]),
)
scraps = st.sampled_from(
    [b"", b'"', b"\\", b"{", b"]", b",", b":", b"\xff", b"\x00", b"9", b"\\ud8"]
)


def mutated(body, changes):
    for place, length, scrap in changes:
        start = place % (len(body) + 1)
        body = body[:start] + scrap + body[start + length :]
    return body


bodies = st.builds(enveloped, texts | good | deep, layouts)
changes = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 9), scraps), max_size=3)


@given(st.builds(mutated, bodies, changes) | st.binary(max_size=40))
@example(enveloped('[{"a":1e400,"a":1},2,3,4,5,6,7,8]', ("", "", "utf-8")))
@example(enveloped('{"a":' + "[" * 250 + "]" * 250 + ',"a":1}', ("", "", "utf-8")))
@example(enveloped('{"long key 1":1,"k":"x","long key 1":"' + "x" * 40 + '"}', ("", "", "utf-8")))
@examples(600)
def test_all_ways_to_read_accept_and_refuse_the_same(tiny_slices, body):
    agreed(body)


def test_a_key_twice_is_found_where_lengths_would_hide_it(tiny_slices):
    agreed(enveloped('{"a":1,"b":22,"a":{"p":0,"kkkkkkk":3}}', ("", "", "utf-8")))


@pytest.mark.parametrize("levels", [197, 198, 199, 300, 480])
@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}")])
def test_the_depth_limit_holds_in_a_large_document(levels, pair):
    value = pair[0] * levels + pair[1] * levels
    value = value.replace('{"a":}', "{}")
    filler = ",".join(['"' + "x" * 1000 + '"'] * 600)
    document = agreed(enveloped(f"[{filler},{value}]", ("", "", "utf-8")))
    assert ("more than 200" in document) is (levels > 197)


@pytest.mark.parametrize("value", ["1e400", "[" * 300 + "]" * 300, "NaN", '"\\x"'])
def test_first_value_of_a_duplicate_key_is_validated(value):
    filler = ",".join(['"' + "x" * 1000 + '"'] * 600)
    assert agreed(enveloped(f'{{"a":{value},"b":[{filler}],"a":1}}', ("", "", "utf-8")))


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("other", ["1", '"\\ud83d"'])
def test_a_number_that_json_has_not_is_named(name, other):
    body = enveloped(f"[{other},[{name}],{other}]", ("", "", "utf-8"))
    assert f"it is not valid JSON: it has {name}" in agreed(body)
    text = enveloped(f'"{name} (byte 3)","x":tru', ("", "", "utf-8"))
    assert "it has" not in agreed(text)


async def turns_of(work):
    """How often others run while some work is done, and its result."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        result = await work
    finally:
        counting.cancel()
    return turns, result


def large_with(text, lists=1):
    messages = [{"n": n, "text": f"{'ü' * 400}"} for n in range(4_000)]
    messages[2_000]["text"] = text
    value = messages
    for _ in range(lists - 1):
        value = [value]
    return Snapshot.new({"messages": value, "system": text, text: [text]})


@pytest.mark.parametrize("text", ["plain", "\ud83d"], ids=["plain", "lone surrogate"])
async def test_a_lone_surrogate_does_not_keep_the_loop(text):
    snapshot = large_with(text)
    body = encode_snapshot(snapshot, max_bytes=2**24)
    assert len(body) > 2**21

    turns, loaded = await turns_of(decode_snapshot_in_slices(body, key=KEY))

    assert loaded == snapshot
    assert turns > len(body) / 2**18


async def test_a_large_raw_snapshot_is_read_in_slices_and_not_kept(monkeypatch):
    body = encode_snapshot(large_with("plain"), max_bytes=2**24)
    made = []
    decode_slice = slices._decode_slice  # noqa: SLF001 -- looked at from within
    monkeypatch.setattr(
        slices,
        "_decode_slice",
        lambda text, depth: made.append(len(text)) or decode_slice(text, depth),
    )
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store) as storage:
        store.objects["s/scopes/agent/a/snapshots/snapshot_latest.json"] = body
        turns, raw = await turns_of(storage.load_raw(location=LOCATION))

    assert raw.document == body
    assert turns > len(body) / 2**18
    assert max(made) <= 2**17 + 2 < len(body)


async def test_scans_of_large_objects_in_each_other_are_bounded(monkeypatch):
    scanned = []
    scan = slices._scan  # noqa: SLF001 -- looked at from within
    monkeypatch.setattr(slices, "_scan", lambda text: scanned.append(len(text)) or scan(text))
    body = encode_snapshot(large_with("plain", lists=150), max_bytes=2**24)

    snapshot = await decode_snapshot_in_slices(body, key=KEY)

    assert spelled(snapshot) == spelled(decode_snapshot(body, key=KEY))
    assert sum(scanned) <= 8 * len(body)


# The garbage collector belongs to the application.


async def test_the_collector_is_on_whenever_others_run():
    seen = set()

    async def look():
        while True:
            seen.add(gc.isenabled())
            await asyncio.sleep(0)

    body = encode_snapshot(large_with("\ud83d"), max_bytes=2**24)
    looking = asyncio.create_task(look())
    await decode_snapshot_in_slices(body, key=KEY)
    looking.cancel()
    assert seen == {True}


async def test_garbage_collector_stays_off_if_the_application_says_so():
    body = encode_snapshot(large_with("\ud83d"), max_bytes=2**24)
    decoding = asyncio.create_task(decode_snapshot_in_slices(body, key=KEY))
    try:
        while not decoding.done():
            await asyncio.sleep(0)
            gc.disable()
        assert not gc.isenabled()
    finally:
        gc.enable()
    await decoding


def test_the_collector_is_as_it_was_after_threads_have_decoded():
    body = encode_snapshot(large_with("plain"), max_bytes=2**24)
    seen = []

    def decode():
        seen.append(asyncio.run(decode_snapshot_in_slices(body, key=KEY)) is not None)

    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            threads = [threading.Thread(target=decode) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert gc.isenabled() is enabled
        finally:
            gc.enable()
    assert seen == [True] * 8


async def test_an_error_leaves_the_collector_on():
    body = encode_snapshot(large_with("plain"), max_bytes=2**24)
    with pytest.raises(SnapshotDecodeError):
        await decode_snapshot_in_slices(body.replace(b"\xc3\xbc", b"\xc3", 1), key=KEY)
    assert gc.isenabled()
