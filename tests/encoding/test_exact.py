"""What is written is what was checked: exactly, at one moment, or not at all.

The known counterexamples to faster checks are here, threads that change what is being saved, and
documents at random beside a check that is as plain as can be. `SNAPSTORE_EXAMPLES=100` makes 100
times as many of those, and others each time.
"""

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import json
import math
import random
import sys
import threading
import uuid
from contextlib import suppress

import msgspec
import pytest

from examples import TIMES
from snapstore import Snapshot, SnapshotEncodeError
from snapstore.encoding import exact, parts
from snapstore.encoding.documents import encode_document, encode_json
from snapstore.encoding.envelope import decode_snapshot, encode_snapshot

UNLIMITED = 2**40


def encode(value):
    return encode_snapshot(Snapshot.new({"value": value}), max_bytes=UNLIMITED)


def at_once(document):
    """What is written without a copy; `None` if that can't be done."""
    written = exact.encode_at_once(document, UNLIMITED)
    return None if written is None or written.is_too_deep() else written.data


def refusal_of(value):
    with pytest.raises(SnapshotEncodeError) as caught:
        encode(value)
    return str(caught.value)


# A check as plain as can be

SCALARS = (str, int, float, bool, type(None))


def is_exact(value, depth=1):
    """Whether JSON carries a value, of which no container holds itself."""
    if type(value) in (dict, list, tuple) and depth > 200:
        return False
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(
            is_exact(child, depth + 1) for child in value.values()
        )
    if type(value) in (list, tuple):
        return all(is_exact(child, depth + 1) for child in value)
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is int:
        return abs(value) < 10**4300
    return type(value) in SCALARS


def is_within_limits(value):
    return is_exact(value, 3)  # it lies in the data of a document


# Known counterexamples, each to a check that was tried


class Bytes(bytes, enum.Enum):
    A = b"buffer"


class Numbers(array.array, enum.Enum):
    A = ("b", b"12")


class Buffer(enum.Enum):
    A = "text"

    def __buffer__(self, flags):
        return memoryview(b"buffer")


class Text(str):
    __slots__ = ()


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 1


class Pair(collections.namedtuple("Pair", "x y")):  # noqa: PYI024 -- the old form is met as well
    __slots__ = ()


@dataclasses.dataclass
class Record:
    text: str


class Holder:
    def __init__(self, **fields):
        self.__dict__ = fields


class Instance:
    """Its dict shows the collector nothing of its values, on Python 3.13."""

    def __init__(self, value):
        self.value = value


class AnyUUID(uuid.UUID):
    pass


class Zone(dt.tzinfo):
    def utcoffset(self, when):
        return dt.timedelta()


def lists(levels, kind=list):
    value = kind()
    for _ in range(levels - 1):
        value = kind([value])
    return value


def long_list(value, place):
    """A list of objects that is encoded in parts."""
    return [{"n": number, "value": value if number == place else ()} for number in range(300)]


def general(data):
    """A dict that once had a key which was no text."""
    data = {1: None} | data
    del data[1]
    return data


INEXACT = [
    *(float(name) for name in ("nan", "inf", "-inf")),
    *(b"", b"bytes", bytearray(b"x"), memoryview(b"x"), array.array("b", b"x")),
    *(set(), {1}, frozenset(), frozenset("x"), range(2), 1j, ..., NotImplemented),
    *(Bytes.A, Numbers.A, Buffer.A, Colour.RED, Level.HIGH, Text("x"), Pair(1, 2), Record("x")),
    *(uuid.UUID(int=1), AnyUUID(int=1), decimal.Decimal(1), dt.date(2026, 1, 1), dt.timedelta(1)),
    *(dt.datetime(2026, 1, 1, tzinfo=Zone()), dt.time(1), msgspec.Raw(b"1"), msgspec.UNSET),
    *(collections.OrderedDict(), collections.defaultdict(int), collections.deque()),
    *(type, len, sys, Holder(), object(), StopIteration, compile("1", "", "eval"), slice(1)),
    *({1: 1}, {1.5: 1}, {True: 1}, {None: 1}, {(): 1}, {("a",): 1}, {b"a": 1}, {Text("a"): 1}),
    *({Colour.RED: 1}, {Level.HIGH: 1}, {uuid.UUID(int=1): 1}, {float("nan"): 1}, {2**70: 1}),
    *(10**4300, -(10**4300)),
    *(lists(199), lists(199, tuple), lists(2_000, tuple), vars(Instance(lists(198, tuple)))),
]


@pytest.mark.parametrize("number", range(len(INEXACT)))
@pytest.mark.parametrize(
    "place",
    [
        lambda value: value,
        lambda value: [1, (value,), "x"],
        lambda value: {"a": [{}, {"b": value}] * 60},
        lambda value: vars(Instance([value])),
        lambda value: {"a": general({"k": "k", "l": "l"}), "b": vars(Instance(value))},
        lambda value: [[["x", [[value]]]]] * 120,
        lambda value: long_list(value, 130),
        lambda value: {"messages": long_list(1, 0), "state": value},
    ],
)
def test_what_json_does_not_carry_is_never_written(place, number):
    value = place(INEXACT[number])

    assert not is_within_limits(value)
    assert at_once({"data": {"value": value}}) is None
    assert refusal_of(value).startswith("data.value")


class Evasive:
    """It takes its place in the document when an encoder asks it for its fields, and is gone."""

    def __init__(self, where, instead):
        self.where, self.instead = where, instead

    def __getattr__(self, name):
        if name == "__dataclass_fields__":
            self.where["value"] = self.instead
        raise AttributeError(name)


@dataclasses.dataclass
class EvasiveRecord:
    where: dict
    instead: object

    def __getattribute__(self, name):
        if name == "where":
            object.__getattribute__(self, "where")["value"] = object.__getattribute__(
                self, "instead"
            )
            return 1
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("make", [Evasive, EvasiveRecord])
@pytest.mark.parametrize("instead", [1, {1: 1}, b"x", float("nan")])
def test_no_code_of_an_object_in_a_document_is_run(make, instead):
    data = {}
    data["value"] = make(data, instead)

    refusal = refusal_of(data)

    assert refusal == f"data.value.value: a {make.__name__}"
    assert type(data["value"]) is make


# What is exact is written in one step, and as msgspec does

EXACT = [
    {},
    [(), [], {}, "", 0, -0.0, True, None],
    ("ü🌧️\x00\u2028", 2**63, 1 - 2**63, 1e16, 5e-324, 1.7976931348623157e308, -0.5),
    {"rows": [{"n": n, "half": n / 2, "no": None} for n in range(500)]},
    [[1, 2], [3, [4, (5,)]]] * 200,
    lists(49),
    general({"a": 1}),
    vars(Instance([1, {"b": 2}])),
    long_list("ü🌧️\x00", 299),
    [{"rows": [{"n": 0.5}] * 30}] * 300,
    [{}] * 300,
    [*long_list(0.5, 0), (), [], 1, None, "x"],
]


@pytest.mark.skipif(not exact._IS_ONE_STEP, reason="not on this interpreter")  # noqa: SLF001
@pytest.mark.parametrize("value", EXACT[:5] + EXACT[6:], ids=lambda value: repr(value)[:30])
def test_what_is_common_is_written_in_one_step(value):
    document = {"data": {"value": value}}
    assert at_once(document) == msgspec.json.encode(document)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), -float("nan")])
@pytest.mark.parametrize("before", [0, 1, 7, 8, 500, 5_000])
@pytest.mark.parametrize("filling", [0.5, 203, "\u02ff", -1, "x" * 200])
def test_a_float_that_is_not_finite_is_found_behind_anything(bad, before, filling):
    for after in (0, 1, 600):
        assert at_once({"value": [filling] * before + [bad] + [filling] * after}) is None


@pytest.mark.parametrize("count", [0, 1, 5_000])
def test_bytes_that_only_look_like_a_float_are_written(count):
    value = [[203, "\u02c0", -1, 127, 1e300, -1e300]] * count
    loaded = decode_snapshot(encode(value), key="key-1")
    assert loaded.data["value"] == value


@pytest.mark.parametrize("levels", [45, 46, 47, 48, 49, 50, 51, 100, 197, 198])
@pytest.mark.parametrize("kind", [list, tuple])
def test_documents_of_any_depth_allowed_are_written(levels, kind):
    for value in (
        lists(levels, kind),
        [lists(levels - 1, kind)] * 120,
        long_list(lists(levels - 2, kind), 299),
        {"messages": long_list(1, 0), "state": lists(levels - 1, kind)},
    ):
        loaded = decode_snapshot(encode(value), key="key-1")
        assert json.dumps(loaded.data["value"]) == json.dumps(value)


# Bounds are found before they cost


def repeated(times, kind=list):
    value = kind(["x"])
    for _ in range(times):
        value = kind([value, value])
    return value


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("times", [45, 60, 190])
@pytest.mark.parametrize("leaf", [1, b"x"])
def test_what_holds_the_same_over_and_over_is_refused_at_once(times, kind, leaf):
    value = [repeated(times, kind), leaf]

    with pytest.raises(SnapshotEncodeError, match=r"too large|a bytes"):
        encode_snapshot(Snapshot.new({"value": value}), max_bytes=2**26)


@pytest.mark.parametrize("shared", [repeated(60), "x" * 2**20])
def test_what_is_in_all_objects_of_a_long_list_is_refused_at_once(shared):
    value = [{"shared": shared} for _ in range(20_000)]

    with pytest.raises(SnapshotEncodeError, match="too large"):
        encode_snapshot(Snapshot.new({"value": value}), max_bytes=2**26)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    "value",
    [long_list(1, 0), long_list("x" * 2**20, 0), long_list(b"x", 200)],
    ids=["good", "too large", "bytes"],
)
def test_the_collector_is_afterwards_as_it_was(value, enabled, monkeypatch):
    # As on Python 3.11, where it has to be off meanwhile.
    monkeypatch.setattr(parts, "_COLLECTS_ANYWHERE", True)
    try:
        (gc.enable if enabled else gc.disable)()
        with suppress(SnapshotEncodeError):
            encode_snapshot(Snapshot.new({"value": value}), max_bytes=2**20)
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_two_long_lists_that_are_one_are_written_twice():
    data = {"messages": long_list(1, 0)}
    document = {"data": data, "again": data}
    assert exact.encode_at_once(document, UNLIMITED).data == msgspec.json.encode(document)
    document = {"messages": data["messages"], "again": data["messages"]}
    assert exact.encode_at_once(document, UNLIMITED).data == msgspec.json.encode(document)


def test_what_occurs_often_is_written_as_often():
    shared = {"a": [1, 2, ("b",)]}
    value = [[shared] * 50 for _ in range(50)]
    assert decode_snapshot(encode(value), key="k").data["value"] == json.loads(json.dumps(value))


def test_a_path_leads_to_the_first_of_many_places():
    shared = [1, {"bad": {1}}]
    assert refusal_of([[], shared, [[shared]]]) == "data.value[1][1].bad: a set"


# Threads


@pytest.fixture
def busy_threads():
    """Let threads take turns all the time, and end them after the test."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    ended, threads = threading.Event(), []

    def start(change):
        def run():
            while not ended.is_set():
                change()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    ended.set()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("good", "bad", "traces"),
    [
        (0.5, float("nan"), [b"null"]),
        ("good", b"bad", [b"YmFk"]),
        ({"1": "good"}, {1: "bad"}, [b"bad"]),
        ([], {"bad"}, [b"bad"]),
        (1, Colour.RED, [b"red"]),
        ([2], lists(300), [b"[" * 290]),
        ((3,), lists(300, tuple), [b"[" * 290]),
    ],
    ids=["NaN", "bytes", "number as a key", "set", "enum", "lists", "tuples"],
)
@pytest.mark.parametrize("size", [1, 300])
def test_save_never_stores_the_bad_value_of_a_toggled_one(good, bad, traces, size, busy_threads):
    rows = [{"n": n, "text": "x" * 20} for n in range(size)]
    data = {"rows": rows, "last": good, "lists": [[n] for n in range(size)]}

    def toggle():
        # Threads take turns at the end of a loop's body: in either state.
        for value in (bad, good, good):
            data["last"] = value
        for value in (bad, good, good):
            rows[0]["n"] = value

    busy_threads(toggle)
    saved = tried = 0
    while tried < 300 or (saved == 0 and tried < 20_000):
        tried += 1
        try:
            body = encode_snapshot(Snapshot.new(data), max_bytes=2**24)
        except SnapshotEncodeError:
            continue
        saved += 1
        assert not any(trace in body for trace in traces)
        assert decode_snapshot(body, key="key-1").data["lists"] == data["lists"]
    assert saved > 0


def set_fields(data, number):
    data["before"] = number
    data["messages"][0]["value"] = number
    data["after"] = number


def set_members(data, number):
    data["messages"][0] = {"value": number}
    data["messages"][1]["value"] = number
    data["messages"][-1] = {"value": number}


def add_members(data, number):
    data["messages"][0]["value"] = number
    data["messages"].append({"value": number})
    data["messages"][1]["value"] = number
    del data["messages"][-1]


def replace_list(data, number):
    data["messages"] = [{"value": number}, *data["messages"][1:]]
    data["state"]["number"] = number


READS = {
    set_fields: lambda data: [data["before"], data["messages"][0]["value"], data["after"]],
    set_members: lambda data: [data["messages"][at]["value"] for at in (0, 1, -1)],
    add_members: lambda data: [data["messages"][at]["value"] for at in (0, 1)],
    replace_list: lambda data: [data["messages"][0]["value"], data["state"]["number"]],
}


@pytest.mark.parametrize("change", READS)
@pytest.mark.parametrize("nest", [lambda data: data, lambda data: {"data": data}])
def test_what_is_saved_in_parts_is_of_one_moment(change, nest, busy_threads):
    data = {"before": 0, "messages": long_list(0, 0), "state": {"number": 0}, "after": 0}
    data["messages"][1]["value"] = data["messages"][-1]["value"] = 0
    numbers = iter(range(1, 10**9))
    document = nest(data)

    busy_threads(lambda: change(data, next(numbers)))
    for _ in range(400):
        loaded = json.loads(encode_document(document, UNLIMITED))
        found = READS[change](loaded.get("data", loaded))
        # The thread sets them in this order.
        assert found == sorted(found, reverse=True)
        assert found[0] - found[-1] <= 1


def test_a_thread_that_adds_keys_does_not_fail_a_save(busy_threads):
    data = {"state": {str(n): n for n in range(20_000)}}
    numbers = iter(range(10**9))

    def add():
        number = next(numbers)
        data["state"][f"new {number}"] = number
        data["state"].pop(f"new {number - 100}", None)

    busy_threads(add)
    for _ in range(30):
        loaded = decode_snapshot(encode(data), key="key-1").data["value"]["state"]
        assert [key for key in loaded if not key.startswith("new")] == [*map(str, range(20_000))]


def test_save_survives_a_thread_that_changes_what_is_copied(busy_threads):
    data = {"text": "\ud83d", "state": {str(n): n for n in range(2_000)}}
    numbers = iter(range(10**9))

    def add():
        number = next(numbers)
        data["state"][f"new {number}"] = number
        data["state"].pop(f"new {number - 100}", None)

    busy_threads(add)
    for _ in range(30):
        assert len(decode_snapshot(encode(data), key="k").data["value"]["state"]) >= 2_000


def test_save_of_a_changing_bad_value_is_a_typed_error(busy_threads):
    data = {"state": {str(n): n for n in range(2_000)}, "last": {1}}
    numbers = iter(range(10**9))

    def add():
        number = next(numbers)
        data["state"][f"new {number}"] = number
        data["state"].pop(f"new {number - 100}", None)

    busy_threads(add)
    for _ in range(50):
        assert refusal_of(data) in {
            "data.value.last: a set",
            "it was changed by another thread while it was being saved",
        }


# Documents at random, beside the plain check


class Random:
    """Makes values: most are exact, and some are not at one place or at many."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.badness = self.random.choice([0, 0, 0.001, 0.02, 0.2])
        self.pool = [[], {}, ()]

    def value(self, size):
        chosen = self.random
        if chosen.random() < self.badness:
            return chosen.choice(INEXACT)
        kind = chosen.random()
        if size < 2 or kind < 0.4:
            return self.leaf()
        if kind < 0.45:
            return chosen.choice(self.pool)
        count = chosen.randrange(min(size, 9))
        children = [self.value(size // max(count, 1)) for _ in range(count)]
        made = self.container(children)
        self.pool.append(made)
        return made

    def container(self, children):
        kind = self.random.randrange(8)
        if kind < 3:
            return children
        if kind == 3:
            return tuple(children)
        data = {self.key(number): child for number, child in enumerate(children)}
        if kind == 4:
            return general(data)
        if kind == 5 and all(type(key) is str for key in data):
            return vars(Holder(**data)) if self.random.random() < 0.5 else self.inline(data)
        return data

    def inline(self, data):
        holder = Instance(None)
        for key, child in data.items():
            setattr(holder, key, child)
        self.pool.append([holder.__dict__])
        return holder.__dict__

    def key(self, number):
        if self.random.random() < self.badness:
            return self.random.choice([number, Text("k"), Colour.RED, None, 1.5, (1,), b"k"])
        return self.random.choice(["a", "ü", "", "k", "1", f"k{number}"])

    def leaf(self):
        chosen = self.random
        return chosen.choice(
            [
                *("", "text", "ü🌧️", '"\\', "x" * chosen.randrange(300), "[[", "\ud83d"),
                *(0, -1, chosen.getrandbits(62), 10**20, -(10**4299), 255, 10**4300 - 1),
                *(0.0, -0.0, 1e16, 1e22, 0.1, chosen.random(), 5e-324, None, True, False),
            ]
        )

    def deep(self):
        value = self.leaf()
        for _ in range(self.random.choice([20, 48, 49, 50, 100, 196, 197, 198, 199, 250])):
            value = self.container([value])
        return value


@pytest.mark.properties
@pytest.mark.parametrize("block", range(8))
def test_random_documents_are_written_as_the_plain_check_says(block):
    first = random.SystemRandom().getrandbits(60) if TIMES else block * 1_000_000
    for seed in range(first, first + 250 * max(TIMES, 1)):
        make = Random(seed)
        value = make.deep() if seed % 8 == 0 else make.value(make.random.choice([5, 60, 900]))
        if seed % 5 == 0:
            value = long_list(value, make.random.randrange(300))
        document = {"data": {"value": value}}
        takes = is_within_limits(value)
        once = at_once(document)
        assert once is None or takes, seed
        body, refusal = written(value)
        if body is None:
            assert not takes or "surrogate" in refusal, (seed, refusal)
        else:
            assert takes, seed
            again = json.dumps(decode_snapshot(body, key="k").data["value"])
            assert again == json.dumps(value), seed
            assert once is None or once == msgspec.json.encode(document), seed


def written(value):
    try:
        return encode(value), ""
    except SnapshotEncodeError as error:
        return None, str(error)


def test_any_content_is_written_by_the_same_rules():
    assert encode_json([1, {"a": (None,)}]) == b'[1,{"a":[null]}]'
    assert encode_json("\ud83d") == rb'"\ud83d"'
    assert encode_json(1.5) == b"1.5"
    with pytest.raises(SnapshotEncodeError, match=r"content\[1\]\.a: NaN"):
        encode_json([1, {"a": float("nan")}])
