"""JSON to snapshots and back: exactly, or not at all, and never with a word of what is in them."""

import asyncio
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import gc
import json
import uuid

import msgspec
import pytest

from snapstore import (
    MemoryStorage,
    ObjectSnapshotStorage,
    Snapshot,
    SnapshotDecodeError,
    SnapshotEncodeError,
    SnapshotLocation,
    SnapshotManifest,
    StorageTimeoutError,
)
from snapstore.encoding.envelope import (
    decode_manifest,
    decode_snapshot,
    decode_snapshot_in_slices,
    encode_manifest,
    encode_snapshot,
)
from snapstore.stores.memory import MemoryObjectStore

KEY = "prod/s/scopes/agent/a/snapshots/snapshot_latest.json"
CANARY = "canary-51f0"
LOCATION = SnapshotLocation.agent("s", "a")
TYPESCRIPT = {
    "scope": "agent",
    "schemaVersion": "1.0",
    "createdAt": "2026-11-22T11:13:20.395Z",
    "data": {"messages": [CANARY]},
    "appData": {"tenant": CANARY},
}
PYTHON = {
    "scope": "agent",
    "schema_version": "1.0",
    "created_at": "2026-11-22T11:13:28.456845Z",
    "data": {"messages": [CANARY]},
    "app_data": {"tenant": CANARY},
}
MANIFEST = {"schemaVersion": "1.0", "updatedAt": "2026-11-22T11:13:20.368Z"}
UNLIMITED = 2**40


def snapshot_of(data, **changes):
    return Snapshot(
        **{
            "scope": "agent",
            "schema_version": "1.0",
            "created_at": "2026-11-22T11:13:20.395Z",
            "data": data,
            "app_data": {},
        }
        | changes
    )


def encode(snapshot, max_bytes=UNLIMITED):
    return encode_snapshot(snapshot, max_bytes=max_bytes)


def decode(data):
    return decode_snapshot(data, key=KEY)


def document_with(json_value):
    """A snapshot's document, as bytes, with a value in its `data`."""
    return (
        b'{"scope":"agent","schemaVersion":"1.0","createdAt":"now","data":{"value":'
        + json_value
        + b'},"appData":{}}'
    )


def everything_in(error):
    """All that a log or a traceback could show of an error and of what is chained to it."""
    shown, waiting = [], [error]
    while waiting:
        found = waiting.pop()
        if found is not None:
            shown += [str(found), repr(found), repr(found.args), repr(vars(found))]
            shown += getattr(found, "__notes__", [])
            # json and the codecs keep the text that they failed on.
            shown += [repr(getattr(found, name, None)) for name in ("doc", "object")]
            waiting += [found.__cause__, found.__context__]
    return "\n".join(shown)


def refusal_of(data):
    """Decode what must be refused, and check that the refusal is a good one."""
    with pytest.raises(SnapshotDecodeError) as caught:
        decode(data)
    assert caught.value.key == KEY
    assert KEY in str(caught.value)
    assert CANARY not in everything_in(caught.value)
    return str(caught.value)


def refusal_to_encode(snapshot):
    with pytest.raises(SnapshotEncodeError) as caught:
        encode(snapshot)
    assert CANARY not in everything_in(caught.value)
    return str(caught.value)


def same(one, other):
    """Whether two values are equal and of the same types, all the way down, in the same order."""
    return repr(one) == repr(other)


# What is saved loads equal.

EXACT = [
    {},
    {"": ""},
    {"list": [], "object": {}, "null": None, "yes": True, "no": False},
    {"ints": [0, -1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**40, -(10**40)]},
    {"floats": [0.0, -0.0, 1.0, 0.1, -3.5, 1e16, 1e22, 1e23, 5e-324, 1.7976931348623157e308]},
    {"a float that is whole": 2.0, "an int": 2, "a bool": True},
    {"text": "Grüezi 🌧️ 你好 \x00\x1f\x7f\x80\u2028\u2029\ufeff\uffff\U0010ffff"},
    {"text": 'quotes " and \\ and / and \\u0041 and \n\r\t\b\f'},
    {"a key with spaces": 1, "ключ": 2, 'quote " \\': 3, "\n": 4, "0": 5, "__proto__": 6},
    {"z": 1, "a": {"z": 1, "a": 2}, "m": 3},
    {"numbers as text": ["1", "1.0", "NaN", "null"]},
    {"looks like bytes": {"__bytes_encoded__": True, "data": "iVBORwD/"}},
    {"text": "x" * 1_000_000},
    {"many": [{"i": i, "half": i / 2} for i in range(10_000)]},
]


def with_a_key_that_was_no_text():
    data = {1: "gone", "a": 1, "b": [0.5]}
    del data[1]
    return data


class Instance:
    def __init__(self):
        self.a, self.b, self.c = 1, [None], 0.5
        del self.a


LIVING = Instance()


@pytest.mark.parametrize(
    "make",
    [
        with_a_key_that_was_no_text,
        lambda: vars(Instance()),
        lambda: {**vars(LIVING)},
        lambda: dict.fromkeys(["a", "b"], 1),
        lambda: {"a": 1} | {"b": 2},
        lambda: dict(a=1, **{"b c": 2}),
        lambda: dict(zip("ab", [1, 2], strict=True)),
        lambda: json.loads('{"a": {"b": [1]}}'),
        lambda: msgspec.json.decode('{"a": {"b": [1]}}'),
    ],
)
def test_a_dict_may_have_been_made_in_any_way(make, either_way):
    data = {"a": make(), "b": [make()]}

    assert same(decode(encode(snapshot_of(data))).data, data)
    data["b"][0]["last"] = {1}
    assert refusal_to_encode(snapshot_of(data)) == "data.b[0].last: a set"
    data["b"][0]["last"] = {1: 1}
    assert "data.b[0].last[key 0]: a key that is a int" in refusal_to_encode(snapshot_of(data))


def test_the_dict_of_a_living_instance_is_checked_like_any_other():
    instance = Instance()
    data = {"of": vars(instance), "other": with_a_key_that_was_no_text()}
    assert same(decode(encode(snapshot_of(data))).data, data)

    instance.b = float("nan")
    assert refusal_to_encode(snapshot_of(data)) == "data.of.b: NaN"
    data["other"] = {1: "x"}
    instance.b = b"bytes"
    assert refusal_to_encode(snapshot_of(data)).startswith("data.of.b: a bytes")


@pytest.mark.parametrize("dialect", ["typescript", "python"])
@pytest.mark.parametrize("data", EXACT, ids=lambda data: ascii(data)[:40])
def test_encoded_document_decodes_equal_in_type_and_order(data, dialect):
    snapshot = snapshot_of(data, app_data=data, dialect=dialect)

    decoded = decode(encode(snapshot))

    assert decoded == snapshot
    assert same(decoded.data, data)
    assert same(decoded.app_data, data)


@pytest.mark.parametrize("data", EXACT, ids=lambda data: ascii(data)[:40])
def test_python_reads_in_a_document_what_was_put_into_it(data):
    assert same(json.loads(encode(snapshot_of(data)))["data"], data)


def test_json_is_compact_utf8_with_the_envelope_first():
    assert encode(snapshot_of({"text": "ü"}, extra={"later": 1})).decode() == (
        '{"scope":"agent","schemaVersion":"1.0","createdAt":"2026-11-22T11:13:20.395Z",'
        '"data":{"text":"ü"},"appData":{},"later":1}'
    )
    assert encode(snapshot_of({}, dialect="python", scope="multiAgent")).decode() == (
        '{"scope":"multiAgent","schema_version":"1.0","created_at":"2026-11-22T11:13:20.395Z",'
        '"data":{},"app_data":{}}'
    )
    manifest = SnapshotManifest("1.0", "now", {"later": [1]})
    assert encode_manifest(manifest, max_bytes=UNLIMITED).decode() == (
        '{"schemaVersion":"1.0","updatedAt":"now","later":[1]}'
    )


def test_any_layout_of_json_is_read():
    for text in (
        json.dumps(TYPESCRIPT, indent=2),
        json.dumps(TYPESCRIPT, indent="\t", ensure_ascii=True),
        json.dumps(TYPESCRIPT).replace(" ", "\r\n\t "),
        f" \r\n\t{json.dumps(TYPESCRIPT)} \n\n",
    ):
        assert decode(text.encode()).data == TYPESCRIPT["data"]


def test_a_tuple_is_written_as_a_list():
    decoded = decode(encode(snapshot_of({"pair": (1, ("a", ()), [(2,)])})))

    assert same(decoded.data, {"pair": [1, ["a", []], [[2]]]})


def test_times_and_versions_are_kept_as_they_are():
    snapshot = snapshot_of({}, schema_version="not a version", created_at="yesterday, at noon")

    assert decode(encode(snapshot)) == snapshot


# What JSON can't carry exactly is refused, by its path and never by its value.


@pytest.fixture(params=["by levels", "by a walk"])
def either_way(request, monkeypatch):
    """Let the check go level by level, and as it goes where there are millions of members."""
    if request.param == "by a walk":
        monkeypatch.setattr("snapstore.encoding.validation._AT_ONCE", 0)


class Text(str):
    __slots__ = ()


class Count(int):
    pass


class Ratio(float):
    pass


class Mapping(dict):
    pass


class Items(list):
    pass


class Colour(enum.StrEnum):
    RED = CANARY


class Level(enum.IntEnum):
    HIGH = 1


class Point(collections.namedtuple("Point", "x y")):  # noqa: PYI024 -- the old form is met as well
    __slots__ = ()


@dataclasses.dataclass
class Record:
    text: str


class Model(msgspec.Struct):
    text: str


UNENCODABLE = [
    pytest.param(float("nan"), "NaN", id="NaN"),
    pytest.param(float("inf"), "Infinity", id="Infinity"),
    pytest.param(float("-inf"), "Infinity", id="-Infinity"),
    pytest.param(CANARY.encode(), "a bytes", id="bytes"),
    pytest.param(bytearray(CANARY.encode()), "a bytearray", id="bytearray"),
    pytest.param(memoryview(CANARY.encode()), "a memoryview", id="memoryview"),
    pytest.param({CANARY}, "a set", id="set"),
    pytest.param(frozenset({CANARY}), "a frozenset", id="frozenset"),
    pytest.param(dt.datetime.now(dt.UTC), "a datetime", id="datetime"),
    pytest.param(dt.date(2026, 1, 1), "a date", id="date"),
    pytest.param(dt.time(12), "a time", id="time"),
    pytest.param(dt.timedelta(1), "a timedelta", id="timedelta"),
    pytest.param(decimal.Decimal("1.5"), "a Decimal", id="Decimal"),
    pytest.param(fractions.Fraction(1, 3), "a Fraction", id="Fraction"),
    pytest.param(1j, "a complex", id="complex"),
    pytest.param(uuid.UUID(int=1), "a UUID", id="UUID"),
    pytest.param(Text(CANARY), "a Text", id="subclass of str"),
    pytest.param(Count(1), "a Count", id="subclass of int"),
    pytest.param(Ratio(1), "a Ratio", id="subclass of float"),
    pytest.param(Mapping(text=CANARY), "a Mapping", id="subclass of dict"),
    pytest.param(collections.OrderedDict(text=CANARY), "a OrderedDict", id="OrderedDict"),
    pytest.param(Items([CANARY]), "a Items", id="subclass of list"),
    pytest.param(Point(CANARY, 1), "a Point", id="namedtuple"),
    pytest.param(Colour.RED, "a Colour", id="StrEnum"),
    pytest.param(Level.HIGH, "a Level", id="IntEnum"),
    pytest.param(Record(CANARY), "a Record", id="dataclass"),
    pytest.param(Model(CANARY), "a Model", id="msgspec.Struct"),
    pytest.param(msgspec.Raw(b'"' + CANARY.encode() + b'"'), "a Raw", id="msgspec.Raw"),
    pytest.param(msgspec.UNSET, "a UnsetType", id="msgspec.UNSET"),
    pytest.param(range(3), "a range", id="range"),
    pytest.param(iter([CANARY]), "a list_iterator", id="iterator"),
    pytest.param(len, "a builtin_function_or_method", id="function"),
    pytest.param(..., "a ellipsis", id="ellipsis"),
]


@pytest.mark.parametrize(("value", "why"), UNENCODABLE)
@pytest.mark.parametrize(
    ("place", "path"),
    [
        (lambda value: {"value": value}, "data.value"),
        (
            lambda value: {"messages": [CANARY, 1, None, {"role": CANARY, "content": value}]},
            "data.messages[3].content",
        ),
        (lambda value: {"pairs": (1, [2, (value,)])}, "data.pairs[1][1][0]"),
        (lambda value: {CANARY: {"_a1": value}}, "data[key 0]._a1"),
        (lambda value: {"a": 1, "b": 2, "": {"c": value}}, "data[key 2].c"),
    ],
)
def test_a_value_that_json_cannot_carry_is_refused_with_its_path(
    place, path, value, why, either_way
):
    refusal = refusal_to_encode(snapshot_of(place(value)))

    assert refusal == f"{path}: {why}"


def test_the_whole_snapshot_is_checked(either_way):
    nan = {"value": float("nan")}

    assert refusal_to_encode(snapshot_of({}, app_data=nan)) == "app_data.value: NaN"
    assert refusal_to_encode(snapshot_of({}, extra={"later": nan})) == "later.value: NaN"
    with pytest.raises(SnapshotEncodeError, match=r"^later\.value: NaN$"):
        encode_manifest(SnapshotManifest("1.0", "now", {"later": nan}), max_bytes=UNLIMITED)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(1, id="int"),
        pytest.param(True, id="bool"),
        pytest.param(None, id="None"),
        pytest.param(1.5, id="float"),
        pytest.param(float("nan"), id="NaN"),
        pytest.param(CANARY.encode(), id="bytes"),
        pytest.param((CANARY,), id="tuple"),
        pytest.param(Text(CANARY), id="subclass of str"),
        pytest.param(Colour.RED, id="StrEnum"),
        pytest.param(Level.HIGH, id="IntEnum"),
        pytest.param(uuid.UUID(int=1), id="UUID"),
        pytest.param(dt.date(2026, 1, 1), id="date"),
    ],
)
def test_a_key_that_is_not_text_is_refused_with_its_place(key, either_way):
    data = {"state": {"a": 1, "b": 2, "c": 3, key: "value", "d": 4}}

    refusal = refusal_to_encode(snapshot_of(data))

    assert refusal.startswith("data.state[key 3]: a key that is a ")
    assert type(key).__name__ in refusal


@pytest.mark.parametrize(
    "key",
    [
        CANARY,
        f"{CANARY} text",
        f"{CANARY}@example.com",
        "",
        "0",
        "ключ",
        "\uff41",
        "a\n",
        "a.b",
        "a[0]",
        "\ud83d",
        "x" * 65,
    ],
)
def test_a_key_that_is_no_plain_name_shows_as_its_place(key):
    data = {"a": 1, "b": 2, "c": 3, key: float("nan")}

    assert refusal_to_encode(snapshot_of(data)) == "data[key 3]: NaN"


@pytest.mark.parametrize("key", ["a", "_", "toolUse", "tool_use_1", "x" * 64])
def test_a_key_that_is_a_plain_name_shows(key):
    assert refusal_to_encode(snapshot_of({key: float("nan")})) == f"data.{key}: NaN"


def test_a_long_path_is_shown_by_its_ends():
    data = value = {}
    for _ in range(60):
        value["abcdefghij"] = value = {}
    value["last"] = float("nan")

    refusal = refusal_to_encode(snapshot_of(data))

    assert refusal.startswith("data.abcdefghij.")
    assert refusal.endswith(".abcdefghij.last: NaN")
    assert len(refusal) < 250


@pytest.mark.parametrize(
    "snapshot",
    [
        pytest.param(None, id="None"),
        pytest.param(TYPESCRIPT, id="dict"),
        pytest.param(SnapshotManifest("1.0", CANARY), id="manifest"),
        pytest.param(snapshot_of([CANARY]), id="data a list"),
        pytest.param(snapshot_of(None), id="data None"),
        pytest.param(snapshot_of(Mapping(text=CANARY)), id="data a subclass of dict"),
        pytest.param(snapshot_of({}, app_data=None), id="app_data None"),
        pytest.param(snapshot_of({}, app_data=CANARY), id="app_data text"),
        pytest.param(snapshot_of({}, scope=CANARY), id="scope unknown"),
        pytest.param(snapshot_of({}, scope="Agent"), id="scope in upper case"),
        pytest.param(snapshot_of({}, scope=None), id="scope None"),
        pytest.param(snapshot_of({}, scope=["agent"]), id="scope a list"),
        pytest.param(snapshot_of({}, scope=Text("agent")), id="scope a subclass of str"),
        pytest.param(snapshot_of({}, schema_version=1.0), id="version a float"),
        pytest.param(snapshot_of({}, schema_version=None), id="version None"),
        pytest.param(snapshot_of({}, schema_version=Text("1.0")), id="version a subclass of str"),
        pytest.param(snapshot_of({}, created_at=None), id="time None"),
        pytest.param(snapshot_of({}, created_at=dt.datetime.now(dt.UTC)), id="time"),
        pytest.param(snapshot_of({}, dialect="rust"), id="dialect unknown"),
        pytest.param(snapshot_of({}, dialect=None), id="dialect None"),
        pytest.param(snapshot_of({}, dialect=["python"]), id="dialect a list"),
        pytest.param(snapshot_of({}, extra=None), id="extra None"),
        pytest.param(snapshot_of({}, extra=[CANARY]), id="extra a list"),
        pytest.param(snapshot_of({}, extra={1: CANARY}), id="extra with an int key"),
    ],
)
def test_what_is_not_a_whole_snapshot_is_refused(snapshot):
    refusal_to_encode(snapshot)


@pytest.mark.parametrize("dialect", ["typescript", "python"])
@pytest.mark.parametrize("field", sorted({*TYPESCRIPT, *PYTHON}))
def test_an_extra_field_never_hides_one_of_the_envelope(field, dialect):
    refusal = refusal_to_encode(snapshot_of({}, dialect=dialect, extra={field: CANARY}))

    assert field in refusal


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(None, id="None"),
        pytest.param(MANIFEST, id="dict"),
        pytest.param(SnapshotManifest(1.0, "now"), id="version a float"),
        pytest.param(SnapshotManifest("1.0", None), id="time None"),
        pytest.param(SnapshotManifest("1.0", Text("now")), id="time a subclass of str"),
        pytest.param(SnapshotManifest("1.0", "now", None), id="extra None"),
        pytest.param(SnapshotManifest("1.0", "now", {"updatedAt": CANARY}), id="extra hides"),
        pytest.param(SnapshotManifest("1.0", "now", {1: CANARY}), id="extra with an int key"),
        pytest.param(SnapshotManifest("1.0", "now", {"x": {CANARY}}), id="extra with a set"),
    ],
)
def test_what_is_not_a_whole_manifest_is_refused(manifest):
    with pytest.raises(SnapshotEncodeError) as caught:
        encode_manifest(manifest, max_bytes=UNLIMITED)

    assert CANARY not in everything_in(caught.value)


# Surrogates: JavaScript writes a lone one as an escape, and knows no pair.


@pytest.mark.parametrize(
    ("text", "written", "read"),
    [
        ("cut \ud83d end", r"cut \ud83d end", "cut \ud83d end"),
        ("\ude00", r"\ude00", "\ude00"),
        ("\ud800\udfff\ud83d", "\U000103ff\\ud83d", "\U000103ff\ud83d"),
        ("\ude00\ud83d", r"\ude00\ud83d", "\ude00\ud83d"),
        ("\ud83d\ude00", "\U0001f600", "\U0001f600"),
        ("\ud83d\U0001f600\ude00", "\\ud83d\U0001f600\\ude00", "\ud83d\U0001f600\ude00"),
        ("\ud83d\ud83d\ude00", "\\ud83d\U0001f600", "\ud83d\U0001f600"),
        ("\\\ud83d", r"\\\ud83d", "\\\ud83d"),
        ('"\ud83d"', r"\"\ud83d\"", '"\ud83d"'),
        ("\n\x00\u2028ü\ud83d", "\\n\\u0000\u2028ü\\ud83d", "\n\x00\u2028ü\ud83d"),
        (r"\ud83d", r"\\ud83d", r"\ud83d"),
    ],
)
@pytest.mark.parametrize("place", ["a value", "a key", "the time"])
def test_surrogates_are_written_as_javascript_does(text, written, read, place):
    if place == "a value":
        before, after = snapshot_of({"text": text}), snapshot_of({"text": read})
    elif place == "a key":
        before, after = snapshot_of({text: [1]}), snapshot_of({read: [1]})
    else:
        before, after = snapshot_of({}, created_at=text), snapshot_of({}, created_at=read)

    data = encode(before)

    assert f'"{written}"' in data.decode()
    assert decode(data) == after


def test_values_beside_a_lone_surrogate_stay_exact():
    for data in EXACT:
        snapshot = snapshot_of(data, app_data={"cut": "\ud83d"})

        decoded = decode(encode(snapshot))

        assert same(decoded.data, data)
        assert same(decoded.app_data, {"cut": "\ud83d"})


def test_tuple_beside_a_lone_surrogate_is_written_as_a_list():
    assert same(decode(encode(snapshot_of({"x": ("\ud83d", ())}))).data, {"x": ["\ud83d", []]})


def test_keys_that_joined_surrogates_would_merge_are_errors():
    refusal_to_encode(snapshot_of({"\ud83d\ude00": CANARY, "\U0001f600": 2}))


def test_an_escaped_pair_is_read_as_one_character():
    assert decode(document_with(rb'"\ud83d\ude00 \uD83D\uDE00"')).data == {
        "value": "\U0001f600 \U0001f600"
    }


def test_an_escaped_lone_surrogate_is_read_in_either_case():
    assert decode(document_with(rb'["\ud83d","\uD83D","\udc00","\uDFFF"]')).data == {
        "value": ["\ud83d", "\ud83d", "\udc00", "\udfff"]
    }


# Depth: the same boundary both ways, since what saves must load.


def lists(levels):
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


def tuples(levels):
    value = ()
    for _ in range(levels - 1):
        value = (value,)
    return value


def objects(levels):
    value = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def mixed(levels):
    value = {}
    for level in range(levels - 1):
        value = ([value], {"a": value}, (value,))[level % 3]
    return value


KINDS = pytest.mark.parametrize("kind", [lists, tuples, objects, mixed])
SURROGATES = pytest.mark.parametrize("text", ["plain", "\ud83d"], ids=["plain", "surrogate"])


@KINDS
@SURROGATES
def test_two_hundred_objects_and_lists_may_lie_in_each_other(kind, text):
    snapshot = snapshot_of({"value": kind(198), "text": text})

    data = encode(snapshot)

    assert encode(decode(data)) == data
    assert same(json.loads(data)["data"], decode(data).data)


@KINDS
@SURROGATES
def test_one_more_is_refused_both_ways(kind, text):
    data = {"value": kind(199), "text": text}

    assert "more than 200" in refusal_to_encode(snapshot_of(data))
    document = {**TYPESCRIPT, "data": data}
    assert "more than 200" in refusal_of(json.dumps(document).encode())


@pytest.mark.parametrize("text", [b'"plain"', rb'"\ud83d"'], ids=["plain", "surrogate"])
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b"[", b""), (b'{"a":', b"")]
)
@pytest.mark.parametrize("levels", [1_000, 100_000])
def test_a_document_of_any_depth_is_refused(text, opening, closing, levels):
    value = opening * levels + b"1" + closing * levels

    refusal_of(document_with(b"[" + text + b"," + value + b"]"))


def test_the_manifest_has_the_same_depth():
    manifest = SnapshotManifest("1.0", "now", {"later": lists(199)})

    data = encode_manifest(manifest, max_bytes=UNLIMITED)

    assert decode_manifest(data, key=KEY) == manifest
    with pytest.raises(SnapshotEncodeError, match="more than 200"):
        encode_manifest(SnapshotManifest("1.0", "now", {"later": lists(200)}), max_bytes=UNLIMITED)
    with pytest.raises(SnapshotDecodeError, match="more than 200"):
        decode_manifest(json.dumps({**MANIFEST, "later": lists(200)}).encode(), key=KEY)


def test_a_list_in_itself_is_refused():
    loop = [CANARY]
    loop.extend([loop] * 1_000)

    assert "more than 200" in refusal_to_encode(snapshot_of({"loop": loop}))


def test_an_object_in_itself_is_refused():
    loop = {}
    loop.update(dict.fromkeys("abc", loop))

    assert "more than 200" in refusal_to_encode(snapshot_of(loop))


# Integers: of 4,300 digits at the most, as Python reads them.


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(10**4_299, id="the lowest of 4,300 digits"),
        pytest.param(2**14_284 - 1, id="14,284 bits"),
        pytest.param(2**14_284, id="14,285 bits"),
        pytest.param(10**4_300 - 1, id="the highest of 4,300 digits"),
        pytest.param(-(10**4_299), id="the highest of 4,300 digits and a sign"),
        pytest.param(-(2**14_284), id="14,285 bits and a sign"),
        pytest.param(-(10**4_300) + 1, id="the lowest of 4,300 digits and a sign"),
    ],
)
@SURROGATES
def test_an_integer_of_4300_digits_is_exact(value, text):
    snapshot = snapshot_of({"value": value, "text": text})

    assert decode(encode(snapshot)) == snapshot


@pytest.mark.parametrize(
    "value", [10**4_300, -(10**4_300), 10**5_000, 2**20_000], ids=int.bit_length
)
@SURROGATES
def test_an_integer_of_more_digits_is_refused_on_saving(value, text):
    refusal = refusal_to_encode(snapshot_of({"value": value, "text": text}))

    assert refusal == "data.value: an integer of more than 4,300 digits"


@pytest.mark.parametrize("sign", [b"", b"-"])
@pytest.mark.parametrize("digits", [4_301, 5_000, 100_000])
@pytest.mark.parametrize("text", [b'"plain"', rb'"\ud83d"'], ids=["plain", "surrogate"])
def test_an_integer_of_more_digits_is_refused_on_loading(text, digits, sign):
    refusal_of(document_with(b"[" + text + b"," + sign + b"9" * digits + b"]"))


# Size.


@SURROGATES
def test_a_snapshot_may_have_just_the_bytes_allowed(text):
    snapshot = snapshot_of({"text": f"{CANARY} {text}"})
    size = len(encode(snapshot))

    assert len(encode(snapshot, max_bytes=size)) == size
    with pytest.raises(SnapshotEncodeError, match="too large") as caught:
        encode(snapshot, max_bytes=size - 1)
    assert CANARY not in everything_in(caught.value)


@pytest.mark.parametrize("before", [b"", b"\n", b"\xef\xbb\xbf  "])
@pytest.mark.parametrize(
    "document", [b"null", b"[]", b'"x"', b"{", b"[" * 300 + b"]" * 300, b'{"data":' * 300]
)
async def test_what_is_large_and_no_snapshot_is_refused_in_slices_too(before, document):
    with pytest.raises(SnapshotDecodeError, match="key-1"):
        await decode_snapshot_in_slices(before + document + b" " * 1_000_000, key="key-1")


@pytest.mark.parametrize(
    "layout", [{"separators": (",", ":")}, {"indent": 2}], ids=["short", "long"]
)
async def test_slices_are_put_together_as_they_were(layout):
    lengths = [1, 70_000, 70_000, 3, 0, 200_000, 5, 131_069, 131_070, 131_071, 131_072, 2]
    texts = [f"{number}:{'x' * length}" for number, length in enumerate(lengths)]
    lists = [[text] * (number % 3) for number, text in enumerate(texts)]
    many = {str(number): [number, None, -0.5, {}] for number in range(30_000)}
    data = {"texts": texts, "lists": lists, "many": many, "values": list(many.values())}
    body = json.dumps({**TYPESCRIPT, "data": data}, **layout).encode()

    found = await decode_snapshot_in_slices(body, key=KEY)

    assert found == decode_snapshot(body, key=KEY)
    assert same(found.data, data)


@pytest.mark.parametrize("before", [b"", b"\n"])
@pytest.mark.parametrize("deep", [197, 240])
async def test_slices_keep_the_depth_limit(before, deep):
    messages = [{"text": "x" * 1000} for _ in range(1000)]
    nested = {}
    for _ in range(deep):
        nested = {"a": nested}
    body = json.dumps(
        {
            "scope": "agent",
            "schemaVersion": "1.0",
            "createdAt": "t",
            "data": {"messages": messages, "nested": nested},
            "appData": {},
        }
    ).encode()
    if deep > 200:
        with pytest.raises(SnapshotDecodeError, match="deep"):
            await decode_snapshot_in_slices(before + body, key="key-1")
    else:
        found = await decode_snapshot_in_slices(before + body, key="key-1")
        assert found == decode_snapshot(body, key="key-1")
    assert gc.isenabled()


async def test_slices_let_others_run_and_give_the_collector_back():
    messages = [{"n": n, "text": "ü🌧️" * 100} for n in range(3000)]
    snapshot = Snapshot.new({"messages": messages, "lone": "\ud83d"})
    body = encode_snapshot(snapshot, max_bytes=2**24)
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    plain = Snapshot.new({"messages": messages})
    plain_body = encode_snapshot(plain, max_bytes=2**24)
    assert await decode_snapshot_in_slices(plain_body, key="key-1") == plain
    assert turns > 5
    # A lone surrogate is read without slices, and as well.
    assert await decode_snapshot_in_slices(body, key="key-1") == snapshot
    decoding = asyncio.create_task(decode_snapshot_in_slices(plain_body, key="key-1"))
    await asyncio.sleep(0)
    decoding.cancel()
    counting.cancel()
    await asyncio.gather(decoding, counting, return_exceptions=True)
    assert decoding.cancelled()
    assert gc.isenabled()


def test_value_shared_many_times_is_too_large_at_once(either_way):
    value = ["x"]
    for _ in range(100):
        value = [value, value]

    with pytest.raises(SnapshotEncodeError, match="too large"):
        encode_snapshot(Snapshot.new({"value": value}), max_bytes=2**20)


async def test_snapshot_too_large_is_neither_saved_nor_loaded():
    store = MemoryObjectStore()
    snapshot = snapshot_of({"text": CANARY * 100})
    size = len(encode(snapshot))

    async with (
        ObjectSnapshotStorage(store, max_snapshot_bytes=size) as roomy,
        ObjectSnapshotStorage(store, max_snapshot_bytes=size - 1) as small,
    ):
        with pytest.raises(SnapshotEncodeError, match="too large"):
            await small.save_snapshot(location=LOCATION, snapshot=snapshot, is_latest=True)
        assert store.objects == {}

        await roomy.save_snapshot(location=LOCATION, snapshot=snapshot, is_latest=True)
        assert await roomy.load_snapshot(location=LOCATION) == snapshot
        with pytest.raises(SnapshotDecodeError, match="too large") as caught:
            await small.load_snapshot(location=LOCATION)

    assert caught.value.key == "s/scopes/agent/a/snapshots/snapshot_latest.json"
    assert CANARY not in everything_in(caught.value)


async def test_what_is_saved_is_the_state_at_the_call():
    data = {"messages": ["first"]}
    async with MemoryStorage() as storage:
        saving = asyncio.create_task(
            storage.save_snapshot(location=LOCATION, snapshot=snapshot_of(data), is_latest=True)
        )
        await asyncio.sleep(0)
        data["messages"].append("second")
        await saving
        loaded = await storage.load_snapshot(location=LOCATION)

    assert loaded.data == {"messages": ["first"]}


# What is not one whole document is refused.


@pytest.mark.parametrize("document", [TYPESCRIPT, PYTHON], ids=["typescript", "python"])
def test_a_document_cut_anywhere_is_refused(document):
    data = json.dumps(document).encode()

    for length in range(len(data)):
        refusal_of(data[:length])
    assert decode(data).data == document["data"]


def test_decode_of_a_cut_document_with_a_surrogate_fails():
    data = encode(snapshot_of({"first": "\ud83d", "text": CANARY}))

    for length in range(len(data)):
        refusal_of(data[:length])
    assert decode(data).data["text"] == CANARY


def test_an_empty_object_is_said_to_be_empty():
    assert "empty" in refusal_of(b"")


WHOLE = json.dumps({**TYPESCRIPT, "data": {"text": f"ü {CANARY}"}}, ensure_ascii=False)
CUT = json.dumps({**TYPESCRIPT, "data": {"text": f"\ud83d {CANARY}"}})
CANARY_JSON = b'"' + CANARY.encode() + b'"'


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(WHOLE.encode("utf-16"), id="UTF-16"),
        pytest.param(WHOLE.encode("utf-16-le"), id="UTF-16 little"),
        pytest.param(WHOLE.encode("utf-16-be"), id="UTF-16 big"),
        pytest.param(WHOLE.encode("utf-32"), id="UTF-32"),
        pytest.param(WHOLE.encode("latin-1"), id="Latin-1"),
        pytest.param(CUT.encode("utf-16"), id="UTF-16 and a surrogate"),
        pytest.param(f"{WHOLE}x".encode(), id="a letter after the end"),
        pytest.param(f"{WHOLE}{WHOLE}".encode(), id="two documents"),
        pytest.param(f"{WHOLE}\n{WHOLE}".encode(), id="two lines"),
        pytest.param(f"{WHOLE}\0".encode(), id="NUL after the end"),
        pytest.param(f"{WHOLE}]".encode(), id="a bracket after the end"),
        pytest.param(f"{CUT}x".encode(), id="a letter after a surrogate"),
        pytest.param(f"{CUT}{CUT}".encode(), id="two documents with surrogates"),
        pytest.param(f"x{WHOLE}".encode(), id="a letter before"),
        pytest.param(f"\ufeff\ufeff{WHOLE}".encode(), id="two byte order marks"),
        pytest.param(f" \ufeff{WHOLE}".encode(), id="a late byte order mark"),
        pytest.param(b"\xef\xbb\xbf", id="a byte order mark alone"),
        pytest.param(b" \n", id="white space alone"),
        pytest.param(b"\0" * 100, id="NULs"),
        pytest.param(b"\x1f\x8b\x08\x00" + CANARY.encode(), id="gzip"),
        pytest.param(b"<Error><Code>" + CANARY.encode() + b"</Code></Error>", id="XML"),
        pytest.param(WHOLE.replace('"', "'").encode(), id="single quotes"),
        pytest.param(WHOLE.replace("}", ",}").encode(), id="a comma too many"),
        pytest.param(b"// " + CANARY.encode() + b"\n" + WHOLE.encode(), id="a comment"),
        pytest.param(b"null", id="null"),
        pytest.param(b"true", id="true"),
        pytest.param(b"1", id="number"),
        pytest.param(CANARY_JSON, id="text"),
        pytest.param(b"[" + CANARY_JSON + b"]", id="list"),
        pytest.param(f"[{WHOLE}]".encode(), id="a snapshot in a list"),
        pytest.param(b"{}", id="object without an envelope"),
        pytest.param(b'{"text":' + CANARY_JSON + b"}", id="another object"),
        pytest.param(b'{"scope":"agent","data":{}}', id="object of no dialect"),
        pytest.param(rb'["\ud83d"]', id="a surrogate in a list"),
        pytest.param(rb'"\ud83d"', id="a surrogate alone"),
    ],
)
def test_what_is_not_one_json_object_in_utf8_is_refused(data):
    refusal_of(data)


BAD_VALUES = [
    pytest.param(b"NaN", id="NaN"),
    pytest.param(b"nan", id="nan"),
    pytest.param(b"Infinity", id="Infinity"),
    pytest.param(b"-Infinity", id="-Infinity"),
    pytest.param(b"1e400", id="1e400"),
    pytest.param(b"-1e400", id="-1e400"),
    pytest.param(b"1" * 400 + b".0", id="400 digits before the point"),
    pytest.param(b"01", id="leading zero"),
    pytest.param(b"+1", id="plus"),
    pytest.param(b".5", id="no digit before the point"),
    pytest.param(b"1.", id="no digit after the point"),
    pytest.param(b"0x10", id="hexadecimal"),
    pytest.param(b"1_000", id="underscore"),
    pytest.param("\u0661".encode(), id="Arabic digit"),
    pytest.param(b"True", id="True"),
    pytest.param(b"undefined", id="undefined"),
    pytest.param(b"", id="nothing"),
    pytest.param(b"[1,]", id="comma at the end"),
    pytest.param(b"[,1]", id="comma first"),
    pytest.param(b'{"a"}', id="key without a value"),
    pytest.param(b"{a:1}", id="key without quotes"),
    pytest.param(b"{1:1}", id="key that is a number"),
    pytest.param(b'"\n"', id="newline in text"),
    pytest.param(b'"\0"', id="NUL in text"),
    pytest.param(rb'"\x41"', id="escape that JSON has not"),
    pytest.param(rb'"\u00"', id="short escape"),
    pytest.param(rb'"\u00g0"', id="escape with a letter"),
    pytest.param(rb'"\ud83"', id="short surrogate"),
    pytest.param(b'"\xff"', id="byte that UTF-8 has not"),
    pytest.param(b'"\xc3"', id="character cut off"),
    pytest.param(b'"\xc0\x80"', id="overlong NUL"),
    pytest.param(b'"\xe0\x80\xaf"', id="overlong slash"),
    pytest.param(b'"\xed\xa0\xbd"', id="surrogate in UTF-8"),
    pytest.param(b'"\xed\xa0\xbd\xed\xb8\x80"', id="pair in UTF-8"),
    pytest.param(b'"\xf4\x90\x80\x80"', id="beyond Unicode"),
    pytest.param(b'{"\xff":1}', id="bad byte in a key"),
    pytest.param(b'{"\xed\xa0\xbd":1}', id="surrogate in UTF-8 in a key"),
]


@pytest.mark.parametrize("value", BAD_VALUES)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(b"[%b,%b]", id="alone"),
        # An escaped lone surrogate takes another parser, before as after what is wrong.
        pytest.param(rb'["\ud83d",%b,%b]', id="after a surrogate"),
        pytest.param(rb'[%b,%b,"\ud83d"]', id="before a surrogate"),
    ],
)
def test_a_value_that_is_not_json_is_refused(value, place):
    refusal_of(document_with(place % (CANARY_JSON, value)))


@pytest.mark.parametrize("text", [WHOLE, CUT, json.dumps(PYTHON)])
def test_a_byte_order_mark_is_skipped(text):
    assert decode(b"\xef\xbb\xbf" + text.encode()) == decode(text.encode())


@pytest.mark.parametrize("other", [b"1", rb'"\ud83d"'], ids=["plain", "surrogate"])
def test_of_duplicate_keys_the_last_wins(other):
    data = document_with(b'{"a":1,"b":%b,"a":3},"value":{"a":4,"c":%b,"a":5}' % (other, other))

    assert decode(data).data["value"]["a"] == 5
    twice = data.replace(b'"createdAt":"now"', b'"createdAt":"then","createdAt":"now"')
    assert decode(twice) == decode(data)


def test_decode_of_a_number_too_small_for_a_float_is_zero():
    assert decode(document_with(b"1e-400")).data == {"value": 0.0}


# Envelopes.


def without(document, field):
    return {name: value for name, value in document.items() if name != field}


def test_the_envelope_tells_the_dialect():
    typescript = decode(json.dumps(TYPESCRIPT).encode())
    python = decode(json.dumps(PYTHON).encode())

    assert typescript == snapshot_of(
        TYPESCRIPT["data"], created_at=TYPESCRIPT["createdAt"], app_data=TYPESCRIPT["appData"]
    )
    assert python == snapshot_of(
        PYTHON["data"],
        created_at=PYTHON["created_at"],
        app_data=PYTHON["app_data"],
        dialect="python",
    )


@pytest.mark.parametrize("field", TYPESCRIPT)
def test_no_field_of_typescripts_envelope_is_filled_in(field):
    assert field in refusal_of(json.dumps(without(TYPESCRIPT, field)).encode())


@pytest.mark.parametrize("field", ["schema_version", "created_at", "data"])
def test_only_what_python_fills_in_is_filled_in(field):
    assert field in refusal_of(json.dumps(without(PYTHON, field)).encode())


def test_the_python_sdk_fills_in_a_scope_and_empty_app_data():
    decoded = decode(json.dumps(without(without(PYTHON, "scope"), "app_data")).encode())

    assert decoded.dialect == "python"
    assert decoded.scope == "agent"
    assert decoded.app_data == {}


def test_what_is_filled_in_belongs_to_one_snapshot_only():
    data = json.dumps(without(PYTHON, "app_data")).encode()

    decode(data).app_data["tenant"] = CANARY

    assert decode(data).app_data == {}


OF_OTHER_TYPES = [None, True, 1, 1.5, CANARY, [CANARY], {CANARY: 1}]


@pytest.mark.parametrize("document", [TYPESCRIPT, PYTHON], ids=["typescript", "python"])
@pytest.mark.parametrize("value", OF_OTHER_TYPES, ids=lambda value: type(value).__name__)
def test_a_field_of_the_wrong_type_is_refused(document, value):
    for field, good in document.items():
        if type(value) is not type(good):
            refusal = refusal_of(json.dumps({**document, field: value}).encode())
            assert field in refusal


@pytest.mark.parametrize("document", [TYPESCRIPT, PYTHON], ids=["typescript", "python"])
@pytest.mark.parametrize("scope", [CANARY, "", "Agent", "multi_agent", "swarm", "agent\n"])
def test_an_unknown_scope_is_refused(document, scope):
    assert "scope" in refusal_of(json.dumps({**document, "scope": scope}).encode())


@pytest.mark.parametrize("field", ["schemaVersion", "createdAt", "appData"])
def test_a_python_envelope_with_a_field_of_typescript_is_refused(field):
    refusal_of(json.dumps({**PYTHON, field: TYPESCRIPT[field]}).encode())


@pytest.mark.parametrize("field", ["schema_version", "created_at", "app_data"])
def test_a_typescript_envelope_with_a_field_of_python_is_refused(field):
    refusal_of(json.dumps({**TYPESCRIPT, field: PYTHON[field]}).encode())
    refusal_of(json.dumps({**TYPESCRIPT, field: None}).encode())


@pytest.mark.parametrize("document", [TYPESCRIPT, PYTHON], ids=["typescript", "python"])
def test_envelope_keeps_unknown_fields(document):
    unknown = {"checksum": CANARY, "nested": {"a": [1, None]}, "id": 3}
    data = json.dumps(document | unknown).encode()

    decoded = decode(data)

    assert decoded.extra == unknown
    assert same(json.loads(encode(decoded)), json.loads(data))


@pytest.mark.parametrize("document", [TYPESCRIPT, PYTHON], ids=["typescript", "python"])
def test_what_is_inside_data_is_never_translated(document):
    inside = {**TYPESCRIPT, **PYTHON, "extra": {"dialect": "python"}}
    name = "appData" if "appData" in document else "app_data"
    data = json.dumps({**document, "data": inside, name: inside}).encode()

    decoded = decode(data)

    assert same(decoded.data, inside)
    assert same(json.loads(encode(decoded)), json.loads(data))


def test_a_manifest_carries_unknown_fields_too():
    data = json.dumps({**MANIFEST, "later": {"a": 1}}).encode()

    manifest = decode_manifest(data, key=KEY)

    assert manifest == SnapshotManifest("1.0", MANIFEST["updatedAt"], {"later": {"a": 1}})
    assert same(json.loads(encode_manifest(manifest, max_bytes=UNLIMITED)), json.loads(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"schemaVersion":"1.0"}',
        b'{"updatedAt":"now"}',
        b'{"schemaVersion":1,"updatedAt":"now"}',
        b'{"schemaVersion":"1.0","updatedAt":null}',
        b'{"schemaVersion":"1.0","updatedAt":"now"',
        b'{"schemaVersion":"1.0","updatedAt":"now","later":' + CANARY.encode() + b"}",
        b'{"schemaVersion":"1.0","updatedAt":"now","later":"\xff' + CANARY.encode() + b'"}',
        b'{"schema_version":"1.0","updated_at":' + CANARY_JSON + b"}",
    ],
)
def test_what_is_not_a_manifest_is_refused(data):
    with pytest.raises(SnapshotDecodeError) as caught:
        decode_manifest(data, key=KEY)

    assert caught.value.key == KEY
    assert KEY in str(caught.value)
    assert CANARY not in everything_in(caught.value)


async def test_the_deadline_covers_the_slices_too(bring_deadlines_forward):
    class Late(MemoryObjectStore):
        async def get(self, key, *, max_bytes):
            bring_deadlines_forward(0.0)
            return await super().get(key, max_bytes=max_bytes)

    store = MemoryObjectStore()
    snapshot = Snapshot.new({"messages": [{"text": "x" * 1000} for _ in range(3000)]})
    async with ObjectSnapshotStorage(store) as storage:
        await storage.save_snapshot(location=LOCATION, snapshot=snapshot, is_latest=True)
        assert await storage.load_snapshot(location=LOCATION) == snapshot
    late = Late()
    late.objects.update(store.objects)
    async with ObjectSnapshotStorage(late, timeout=60.0) as hasty:
        with pytest.raises(StorageTimeoutError):
            await hasty.load_snapshot(location=LOCATION)
    assert gc.isenabled()
