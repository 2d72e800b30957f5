"""What holds for any sequence of operations and faults, any JSON, any bytes and any text."""

import asyncio
import json
import re
import selectors
import string
import uuid
import warnings
from contextlib import AsyncExitStack, aclosing, suppress
from itertools import count
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from examples import examples
from snapstore import (
    InvalidIdentifierError,
    ObjectSnapshotStorage,
    OutcomeUnknownError,
    PartialDeleteError,
    SessionDeletedError,
    Snapshot,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotEncodeError,
    SnapshotExistsError,
    SnapshotLocation,
    SnapshotManifest,
    StorageTimeoutError,
    StorageUnavailableError,
    new_snapshot_id,
)
from snapstore.model.keys import Layout
from snapstore.stores.file.store import FileObjectStore
from snapstore.stores.memory import MemoryObjectStore
from snapstore.stores.s3.store import S3ObjectStore
from snapstore.testing.doubles import FaultyObjectStore, StoreFault
from snapstore.testing.samples import (
    APP_DATA_NAMES,
    CANARY,
    CREATED_AT,
    ENVELOPES,
    UNENCODABLE_VALUES,
    everything_said_by,
)

# Any sequence of operations and faults
#
# The model is a set of worlds, any of which may be the real one: what is stored, by name. An
# operation takes a world through steps to a result. Where it answers, those worlds remain in which
# this is the answer; where it fails, each of its steps may have been the last one.

LOCATIONS = [
    SnapshotLocation(session_id, scope, scope_id)
    for session_id in ("s-1", "s-10", "s-1-1", "s_1")
    for scope in ("agent", "multiAgent")
    for scope_id in ("a", "a-1")
]
IDS = [f"01912a3b-{n:04x}-7000-8000-{n:012x}" for n in range(4)]
RIVALS = 100  # the contents that another writer saves are multiples of it, each once
FAILED = "it failed on the way"


class Name(NamedTuple):
    """Where an object lies."""

    location: SnapshotLocation
    file: str

    def key(self, base):
        where = self.location
        return (
            f"{base}{where.session_id}/scopes/{where.scope}/{where.scope_id}/snapshots/{self.file}"
        )


def latest_at(location):
    return Name(location, "snapshot_latest.json")


def history_at(location, snapshot_id):
    return Name(location, f"immutable_history/snapshot_{snapshot_id}.json")


def manifest_at(location):
    return Name(location, "manifest.json")


def saved(world, name, content):
    return frozenset((dict(world) | {name: content}).items())


def snapshot_of(location, content):
    """A snapshot; another content has another size."""
    return Snapshot(location.scope, "1.0", CREATED_AT, {"n": content, "pad": "x" * content}, {})


def content_of(location, snapshot):
    if snapshot is None:
        return None
    assert snapshot == snapshot_of(location, snapshot.data["n"])
    return snapshot.data["n"]


# What happens to the first calls of an operation, and whether before or after they are applied.
events = st.tuples(
    st.sampled_from(["fails", "unknown", "stalls", "cancelled", "keys fail", "rival"]),
    st.booleans(),
)
plans = st.just([]) | st.lists(st.none() | events, min_size=1, max_size=4)
delete_plans = plans | st.sampled_from([[("keys fail", False)], [("keys fail", True)]])
places = st.integers(0, 3)  # of the locations that an example uses
contents = st.integers(0, 3)
conditions = st.tuples(st.sampled_from(["plain", "create", "right", "stale"]), st.integers(0, 7))
old_ids = st.integers(1, 8)  # of those there are, from the end
ids = st.just(0) | old_ids  # 0 for a new one
spellings = st.sampled_from([str.lower, str.upper])


class StorageMachine(RuleBasedStateMachine):
    """A storage over a store that fails, next to the model."""

    def __init__(self, runner, make_store, base="", *, hasty=False, settles=True):
        super().__init__()
        self.runner = runner
        self.make_store = make_store
        self.base = base
        self.hasty = hasty  # a deadline costs no time
        self.settles = settles  # what was cancelled has been done or will not be, once it is closed
        self.exits = AsyncExitStack()
        self.store = FaultyObjectStore(make_store(), self.fault)
        self.plan = []
        self.worlds = {frozenset()}
        self.versions = []
        self.ids = [*IDS]
        self.rival_content = 0

    @initialize(
        used=st.lists(st.sampled_from(LOCATIONS), min_size=1, max_size=4, unique=True),
        prefix=st.sampled_from(["", "tenant", "eu/prod"]),
    )
    def open(self, used, prefix):
        self.locations = used
        prefix = "/".join(filter(None, [self.base, prefix]))
        self.base = f"{prefix}/" if prefix else ""
        self.storage = ObjectSnapshotStorage(self.store, prefix=prefix, timeout=60.0)
        self.other = ObjectSnapshotStorage(self.make_store(), prefix=prefix)
        # Another store, which lies where the session s-1 does.
        nested = ObjectSnapshotStorage(self.make_store(), prefix=f"{self.base}s-1")
        self.nested_key = latest_at(LOCATIONS[0]).key(f"{self.base}s-1/")

        async def opening():
            for storage in (self.storage, self.other, nested):
                await self.exits.enter_async_context(storage)
            await save_latest(nested, LOCATIONS[0], 1)

        self.runner.run(opening())

    def teardown(self):
        self.runner.run(self.exits.aclose())

    # What a caller does

    @rule(place=places, content=contents, condition=conditions, plan=plans)
    def save_latest(self, place, content, condition, plan):
        location = self.location(place)
        options, holds = self.condition(location, *condition)

        async def act():
            result = await save_latest(self.storage, location, content, **options)
            assert result.snapshot_id is None
            self.versions.append((location, content, result))

        def effect(world):
            if not holds(dict(world).get(latest_at(location))):
                return [world], SnapshotConflictError
            return [world, saved(world, latest_at(location), content)], None

        self.do(act, effect, plan, location)

    @rule(place=places, content=contents, choice=ids, spelled=spellings, plan=plans)
    def save_history(self, place, content, choice, spelled, plan):
        location, snapshot_id = self.location(place), self.old_or_new_id(choice)

        async def act():
            result = await self.storage.save_snapshot(
                location=location,
                snapshot=snapshot_of(location, content),
                is_latest=False,
                snapshot_id=spelled(snapshot_id),
            )
            assert result.snapshot_id == snapshot_id

        self.do(act, history_effect(location, snapshot_id, content), plan, location)

    @rule(place=places, content=contents)
    def save_history_under_an_id_of_its_own(self, place, content):
        location = self.location(place)

        async def act():
            result = await self.storage.save_snapshot(
                location=location, snapshot=snapshot_of(location, content), is_latest=False
            )
            assert result.snapshot_id > max(self.ids)
            self.ids.append(result.snapshot_id)

        def effect(world):
            return history_effect(location, self.ids[-1], content)(world)

        self.do(act, effect)

    @rule(place=places, content=contents, choice=ids, condition=conditions, plan=plans)
    def checkpoint(self, place, content, choice, condition, plan):
        location, snapshot_id = self.location(place), self.old_or_new_id(choice)
        options, holds = self.condition(location, *condition)
        if "if_none_match" in options:
            options, holds = {}, anything

        async def act():
            result = await self.storage.checkpoint(
                location=location,
                snapshot=snapshot_of(location, content),
                snapshot_id=snapshot_id,
                **options,
            )
            assert result.snapshot_id == snapshot_id
            self.versions.append((location, content, result))

        def effect(world):
            steps, result = history_effect(location, snapshot_id, content)(world)
            if result is not None:
                return steps, result
            if not holds(dict(world).get(latest_at(location))):
                return steps, SnapshotConflictError
            return [*steps, saved(steps[-1], latest_at(location), content)], None

        self.do(act, effect, plan, location)

    @rule(place=places, is_async=st.booleans(), plan=plans)
    def update_latest(self, place, is_async, plan):
        location = self.location(place)

        def update(snapshot):
            return snapshot_of(location, after(content_of(location, snapshot)))

        async def update_later(snapshot):
            await asyncio.sleep(0)
            return update(snapshot)

        def after(content):
            return 0 if content is None else content + 1

        async def act():
            await self.storage.update_latest(
                location=location, update=update_later if is_async else update
            )

        def effect(world):
            content = after(dict(world).get(latest_at(location)))
            return [world, saved(world, latest_at(location), content)], None

        self.do(act, effect, plan, location)

    @rule(place=places, versioned=st.booleans(), plan=plans)
    def load_latest(self, place, versioned, plan):
        location = self.location(place)

        async def act():
            if not versioned:
                return content_of(location, await self.storage.load_snapshot(location=location))
            result = await self.storage.load_versioned(location=location)
            if result is None:
                return None
            content = content_of(location, result.snapshot)
            self.versions.append((location, content, result))
            return content

        self.do(act, lambda world: ([world], dict(world).get(latest_at(location))), plan, location)

    @rule(place=places, choice=old_ids, spelled=spellings, plan=plans)
    def load_history(self, place, choice, spelled, plan):
        location, snapshot_id = self.location(place), self.old_or_new_id(choice)
        name = history_at(location, snapshot_id)

        async def act():
            snapshot = await self.storage.load_snapshot(
                location=location, snapshot_id=spelled(snapshot_id)
            )
            return content_of(location, snapshot)

        self.do(act, lambda world: ([world], dict(world).get(name)), plan, location)

    @rule(
        place=places,
        limit=st.none() | st.integers(-1, 5),
        cursor=st.none() | old_ids,
        walks=st.booleans(),
        plan=plans,
    )
    def list_history(self, place, limit, cursor, walks, plan):
        location = self.location(place)
        start_after = None if cursor is None else self.old_or_new_id(cursor)

        async def act():
            if not walks:
                return await self.storage.list_snapshot_ids(
                    location=location, limit=limit, start_after=start_after
                )
            walk = self.storage.iter_snapshot_ids(location=location, start_after=start_after)
            ids = []
            async with aclosing(walk):
                while limit is None or len(ids) < limit:
                    snapshot_id = await anext(walk, None)
                    if snapshot_id is None:
                        break
                    ids.append(snapshot_id)
            return ids

        def effect(world):
            ids = sorted(
                snapshot_id
                for snapshot_id in self.ids
                if history_at(location, snapshot_id) in dict(world)
                and snapshot_id > (start_after or "")
            )
            return [world], ids[: None if limit is None else max(limit, 0)]

        self.do(act, effect, plan, location)

    @rule(place=places, plan=delete_plans)
    def delete_session(self, place, plan):
        location = self.location(place)
        session_id = location.session_id

        async def act():
            failed, cause = {}, None
            try:
                deleted = await self.storage.delete_session(session_id=session_id)
            except PartialDeleteError as error:
                failed, cause = error.failed, error.__cause__
                raise
            finally:
                # Where a listing failed as well, nobody knows what is on its later pages.
                if failed and cause is None:
                    rivals = {latest_at(location).key(self.base)} if self.rivalled else set()
                    prefix = f"{self.base}{session_id}/"
                    left = {key for key in await self.keys() if key.startswith(prefix)}
                    assert left <= {*failed, self.nested_key, *rivals}
            return (deleted.objects, deleted.kept)

        def effect(world):
            others = {item for item in world if item[0].location.session_id != session_id}
            left = {item for item in world if item[0].key(self.base) in self.stored}
            kept = 1 if session_id == "s-1" else 0
            steps = [frozenset(others | left), frozenset(others)]
            return steps, (len(world) - len(others), kept)

        self.do(act, effect, plan, location)

    @rule(place=places, content=contents, plan=plans)
    def save_manifest(self, place, content, plan):
        location = self.location(place)
        manifest = SnapshotManifest("1.0", CREATED_AT, {"n": content})

        async def act():
            await self.storage.save_manifest(location=location, manifest=manifest)

        def effect(world):
            return [world, saved(world, manifest_at(location), content)], None

        self.do(act, effect, plan, location)

    @rule(place=places, plan=plans)
    def load_manifest(self, place, plan):
        location = self.location(place)

        async def act():
            return (await self.storage.load_manifest(location=location)).extra.get("n")

        self.do(
            act, lambda world: ([world], dict(world).get(manifest_at(location))), plan, location
        )

    @invariant()
    def just_what_should_be_stored_is_stored(self):
        stored = self.runner.run(self.keys()) - {self.nested_key}
        worlds = {w for w in self.worlds if {name.key(self.base) for name, _ in w} == stored}
        assert worlds, f"what is stored is none of {self.worlds}"
        self.worlds = worlds

    # How it is done

    def do(self, act, effect, plan=(), location=None):
        """Have the storage act, and the worlds change as `effect` says of each."""
        self.plan, self.struck, self.rivalled, self.contested = [*plan], [], False, location
        self.rival_content += RIVALS
        result = self.runner.run(self.acting(act))
        rivals = (False, True) if self.rivalled else (None,)
        worlds = set()
        for world in self.worlds:
            for rival_first in rivals:
                steps, expected = effect(self.with_rivals(world) if rival_first else world)
                if result is FAILED or result == expected:
                    ends = steps if result is FAILED else steps[-1:]
                    late = rival_first is False
                    worlds.update(self.with_rivals(end) if late else end for end in ends)
        assert worlds, f"{result!r} is the answer in none of {self.worlds}"
        self.worlds = worlds

    async def acting(self, act):
        self.task = asyncio.current_task()
        try:
            result = await act()
        except SessionDeletedError:
            result = SnapshotConflictError  # which of the two it is depends on who came first
        except SnapshotConflictError as error:
            result = type(error)
        except OutcomeUnknownError:
            assert any(call.conditional for call in self.struck)
            result = FAILED
        except (StorageUnavailableError, PartialDeleteError, StorageTimeoutError):
            assert self.struck
            result = FAILED
        except asyncio.CancelledError:
            assert self.struck
            self.task.uncancel()
            result = FAILED
            # What was under way in another thread is waited for.
            await self.storage.aclose()
            await self.storage.open()
        self.plan = []
        self.stored = await self.keys()
        return result

    async def fault(self, call):
        what, applied = (self.plan and self.plan[0]) or (None, False)
        if what == "keys fail" and call.operation != "delete":
            return None  # not yet
        self.plan = self.plan[1:]
        if what == "rival" and not self.rivalled:
            self.rivalled = True
            await save_latest(self.other, self.contested, self.rival_content)
        if what in (None, "rival"):
            return None
        self.struck.append(call)
        if what == "keys fail":
            return StoreFault(applied, failed={call.keys[0]: "InternalError"})
        if what == "unknown" and call.conditional:
            return StoreFault(applied, OutcomeUnknownError)
        if what == "cancelled" or (what == "stalls" and not self.hasty):
            self.task.cancel()
            applied = applied and self.settles
        return StoreFault(applied, stall=what in ("stalls", "cancelled"))

    async def keys(self):
        async with aclosing(self.store.inner.scan(self.base)) as pages:
            return {key async for page in pages for key in page}

    def with_rivals(self, world):
        return saved(world, latest_at(self.contested), self.rival_content)

    def location(self, place):
        return self.locations[place % len(self.locations)]

    def old_or_new_id(self, choice):
        if choice == 0:
            self.ids.append(new_snapshot_id())
        return self.ids[-choice % len(self.ids)]

    def condition(self, location, kind, choice):
        """A condition of a save, and whether it holds for a content."""
        version = None
        if kind == "create":
            return {"if_none_match": True}, lambda content: content is None
        if kind == "right":
            version = self.runner.run(self.other.load_versioned(location=location))
            expected = version and content_of(location, version.snapshot)
        known = [known for known in self.versions if known[0] == location]
        if kind == "stale" and known:
            _, expected, version = known[choice % len(known)]
        if version is None:
            return {}, anything
        given = version if choice % 2 else version.etag
        current = self.runner.run(self.other.load_versioned(location=location))
        is_current = current is not None and current.etag == version.etag
        return {"if_match": given}, lambda content: is_current and content == expected


def history_effect(location, snapshot_id, content):
    def effect(world):
        there = dict(world).get(history_at(location, snapshot_id), content)
        if there != content:
            return [world], SnapshotExistsError
        return [world, saved(world, history_at(location, snapshot_id), content)], None

    return effect


async def save_latest(storage, location, content, **options):
    return await storage.save_snapshot(
        location=location, snapshot=snapshot_of(location, content), is_latest=True, **options
    )


def anything(_):
    return True


class HastySelector(selectors.DefaultSelector):
    """It waits for nothing: what it should have waited is added to the time."""

    ahead = 0.0

    def select(self, timeout=None):
        self.ahead += timeout or 0.0
        return super().select(0 if timeout else timeout)


class HastyLoop(asyncio.SelectorEventLoop):
    """An event loop that never sleeps."""

    def __init__(self):
        self.selector = HastySelector()
        super().__init__(self.selector)

    def time(self):
        return super().time() + self.selector.ahead


class SmallPages(MemoryObjectStore):
    """A store whose listings and deletes take several requests for a few objects."""

    def scan(self, prefix, *, start_after=None, page_size=3):
        return super().scan(prefix, start_after=start_after, page_size=min(page_size, 3))


@pytest.fixture
def quiet(caplog):
    """Of nested stores, delete_session warns: thousands of times here."""
    caplog.set_level("ERROR", "snapstore")


def run_machine(make_machine, number, steps):
    run_state_machine_as_test(make_machine, settings=examples(number, stateful_step_count=steps))


@pytest.mark.properties
def test_a_storage_in_memory_does_what_a_dictionary_would(quiet):
    with asyncio.Runner(loop_factory=HastyLoop) as runner:

        def machine():
            store = SmallPages()
            return StorageMachine(runner, lambda: store, hasty=True)

        run_machine(machine, 200, steps=40)


@pytest.mark.properties
def test_a_storage_in_files_does_what_a_dictionary_would(quiet, tmp_path):
    numbers = count()
    with asyncio.Runner() as runner:

        def machine():
            root = tmp_path / str(next(numbers))
            return StorageMachine(runner, lambda: FileObjectStore(root))

        run_machine(machine, 20, steps=30)


@pytest.mark.properties
def test_a_storage_on_s3_does_what_a_dictionary_would(
    quiet, s3_server, bucket, prefix, aws_session
):
    numbers = count()
    with asyncio.Runner() as runner:
        making = aws_session.create_client("s3", **s3_server.client_options)
        client = runner.run(making.__aenter__())

        def machine():
            base = f"{prefix}/{next(numbers)}"
            return StorageMachine(
                runner, lambda: S3ObjectStore(bucket, client=client), base, settles=False
            )

        try:
            run_machine(machine, 12, steps=20)
        finally:
            runner.run(making.__aexit__(None, None, None))


# Any JSON


def joined(text):
    """A text as JavaScript would have it: a pair of surrogates is one character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


any_text = st.text(st.characters(exclude_categories=()), max_size=20)
texts = any_text.map(joined)
numbers = (
    st.integers()
    | st.integers(2**53 - 2, 2**53 + 2)
    | st.integers(1 - 10**4300, 10**4300 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1, 1.0, True, 0, -0.0, 1e21, 5e-324])
)
leaves = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
deep_values = st.builds(
    lambda value, levels: wrapped(value, levels)[0],
    leaves,
    st.lists(st.booleans(), min_size=100, max_size=198),
)
documents = st.dictionaries(texts, values, max_size=4) | st.builds(dict, deep=deep_values)
FIELDS = {name for envelope in ENVELOPES.values() for name in envelope}
extras = st.dictionaries(texts.filter(lambda name: name not in FIELDS), values, max_size=2)
snapshots = st.builds(
    Snapshot,
    st.just("agent"),
    texts,
    texts,
    documents,
    documents,
    st.sampled_from(["typescript", "python"]),
    extras,
)
LOCATION = SnapshotLocation.agent("s-1", "weather")
KEY = latest_at(LOCATION).key("")


def wrapped(value, levels):
    for is_object in levels:
        value = {"": value} if is_object else [value]
    return [value]


def spelled(value):
    """A text that tells 1, 1.0 and True apart, 0.0 and -0.0, and in which order fields come."""
    if isinstance(value, Snapshot | SnapshotManifest):
        return repr([getattr(value, field) for field in value.__struct_fields__])
    return repr(value)


@given(snapshots)
@examples(100)
async def test_what_is_saved_is_loaded_and_is_the_same_json_to_others(snapshot):
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store) as storage:
        saved = await storage.checkpoint(location=LOCATION, snapshot=snapshot)
        latest = await storage.load_snapshot(location=LOCATION)
        old = await storage.load_snapshot(location=LOCATION, snapshot_id=saved.snapshot_id)

    assert spelled(latest) == spelled(old) == spelled(snapshot)
    document = json.loads(store.objects[KEY])
    assert spelled(document.pop("data")) == spelled(snapshot.data)
    app_data = document.pop(APP_DATA_NAMES[snapshot.dialect])
    assert spelled(app_data) == spelled(snapshot.app_data)
    envelope = {document.pop(name) for name in FIELDS & document.keys()}
    assert envelope == {"agent", snapshot.schema_version, snapshot.created_at}
    assert spelled(document) == spelled(snapshot.extra)


@given(st.builds(SnapshotManifest, texts, texts, extras))
@examples(50)
async def test_a_manifest_that_is_saved_is_loaded(manifest):
    async with ObjectSnapshotStorage(MemoryObjectStore()) as storage:
        await storage.save_manifest(location=LOCATION, manifest=manifest)
        loaded = await storage.load_manifest(location=LOCATION)
    assert spelled(loaded) == spelled(manifest)


@given(st.lists(any_text, min_size=1, max_size=3), st.booleans())
@example(["\ud83c\udf27"], True)
@example(["\ud83c", "\udf27"], True)
@examples(100)
async def test_pairs_of_surrogates_are_joined_and_never_lose_a_key(keys, as_one):
    keys = ["".join(keys), *keys] if as_one else keys
    data = {key: index for index, key in enumerate(keys)}
    as_loaded = {joined(key): index for key, index in data.items()}
    async with ObjectSnapshotStorage(MemoryObjectStore()) as storage:
        save = storage.save_snapshot(location=LOCATION, snapshot=Snapshot.new(data), is_latest=True)
        if len(as_loaded) < len(data):
            with pytest.raises(SnapshotEncodeError):
                await save
        else:
            await save
            assert (await storage.load_snapshot(location=LOCATION)).data == as_loaded


# Values that JSON can't carry, at any place in a document that is full of secrets

secrets = texts.map(lambda text: CANARY + text)
plain_names = st.sampled_from(["a", "messages", "_b2", "x" * 64])
secret_values = st.recursive(
    st.integers() | secrets,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(plain_names | secrets, inner, max_size=3)
    ),
    max_leaves=12,
)
secret_documents = st.dictionaries(plain_names | secrets, secret_values, max_size=4)


def containers_in(path, container):
    """Every object and list, with the path that leads to it as messages have it."""
    yield path, container
    is_object = isinstance(container, dict)
    for index, step in enumerate([*container] if is_object else range(len(container))):
        if isinstance(container[step], dict | list):
            yield from containers_in(path + step_in(container, step, index), container[step])


def step_in(container, step, index):
    if isinstance(container, list):
        return f"[{step}]"
    is_plain = isinstance(step, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", step)
    return f".{step}" if is_plain else f"[key {index}]"


@given(st.data(), secret_documents, secret_documents, st.sampled_from(["typescript", "python"]))
@examples(150)
async def test_unencodable_value_is_an_error_with_its_path_alone(data, document, app_data, dialect):
    snapshot = Snapshot("agent", "1.0", CREATED_AT, document, app_data, dialect)
    places = [*containers_in("data", document), *containers_in("app_data", app_data)]
    path, container = data.draw(st.sampled_from(places))
    kind = data.draw(st.sampled_from([*UNENCODABLE_VALUES, "a key"]))
    value = UNENCODABLE_VALUES.get(kind, 0)
    if isinstance(container, list):
        step = index = data.draw(st.integers(0, len(container)))
        container.insert(step, {1: value} if kind == "a key" else value)
        path += step_in(container, step, index)
        path += "[key 0]" if kind == "a key" else ""
    else:
        step = data.draw(st.integers() if kind == "a key" else plain_names | secrets)
        container[step] = value
        path += step_in(container, step, [*container].index(step))
    store = FaultyObjectStore(MemoryObjectStore())

    async with ObjectSnapshotStorage(store) as storage:
        with pytest.raises(SnapshotEncodeError) as raised:
            await storage.save_snapshot(location=LOCATION, snapshot=snapshot, is_latest=True)

    shown = path if len(path) <= 200 else f"{path[:100]}…{path[-99:]}"
    assert str(raised.value).startswith(f"{shown}: ")
    assert not any(CANARY in text for text in everything_said_by(raised.value))
    assert store.calls == []


# Any bytes where a snapshot should be

SECRET = {"text": f"{CANARY} Z\xfcrich \ud83c cut \U0001f327", "n": [1, 2.5, None], "deep": [[{}]]}
GOOD_SNAPSHOTS = [envelope | {"data": SECRET} for envelope in ENVELOPES.values()]
GOOD_MANIFESTS = [{"schemaVersion": "1.0", "updatedAt": CANARY, "new": SECRET}]
scraps = st.binary(max_size=8) | st.sampled_from(
    [
        b"", b'"', b",", b"{", b"}", b"[", b"]", b":", b"\\", rb"\ud83d", rb"\ud83c\udf27", b"\xff",
        b"\xed\xa0\xbd", b"\xef\xbb\xbf", b"\x00", b"NaN", b"-Infinity", b"1e999", b"-0", b"1.",
        b"null", b"true", b"7" * 5_000, b"[" * 300, b'{"a":' * 300, b'"schema_version":"1.0",',
        b'"schemaVersion":"1.0",', b'"data":{},', f'"{CANARY}":"{CANARY}",'.encode(),
    ]
)  # fmt: skip


def mutated(body, changes):
    for place, length, scrap in changes:
        start = place % (len(body) + 1)
        body = body[:start] + scrap + body[start + length :]
    return body


def bodies_like(documents):
    """Bytes, JSON, documents with a field changed or added, and with bytes changed."""
    good = st.builds(json.dumps, st.sampled_from(documents), ensure_ascii=st.booleans())
    as_bytes = good.map(lambda text: text.encode("utf-8", "surrogatepass"))
    names = texts | st.sampled_from(sorted(FIELDS))
    changed = st.builds(
        lambda document, name, value: json.dumps(document | {name: value}).encode(),
        st.sampled_from(documents),
        names,
        values,
    )
    change = st.tuples(st.integers(0, 400), st.integers(0, 12), scraps)
    return (
        st.binary(max_size=64)
        | st.builds(json.dumps, values).map(str.encode)
        | changed
        | st.builds(mutated, as_bytes, st.lists(change, max_size=3))
    )


@given(bodies_like(GOOD_SNAPSHOTS))
@examples(400)
async def test_any_bytes_are_a_snapshot_or_an_error_without_text(body):
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store) as storage:
        store.objects[KEY] = body
        loaded = await loaded_or_refused(storage.load_snapshot, KEY)
        if loaded is not None:
            again = SnapshotLocation("s-2", loaded.scope, "weather")
            await storage.save_snapshot(location=again, snapshot=loaded, is_latest=True)
            assert spelled(await storage.load_snapshot(location=again)) == spelled(loaded)


@given(bodies_like(GOOD_MANIFESTS))
@examples(200)
async def test_any_bytes_are_a_manifest_or_an_error_without_text(body):
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store) as storage:
        key = manifest_at(LOCATION).key("")
        store.objects[key] = body
        loaded = await loaded_or_refused(storage.load_manifest, key)
        if loaded is not None:
            await storage.save_manifest(location=LOCATION, manifest=loaded)
            assert spelled(await storage.load_manifest(location=LOCATION)) == spelled(loaded)


async def loaded_or_refused(load, key):
    try:
        return await load(location=LOCATION)
    except SnapshotDecodeError as error:
        refused = error
    assert refused.key == key
    assert not any(CANARY in text for text in everything_said_by(refused))
    return None


# Any text for an id, a prefix, a cursor or an etag

ID_CHARACTERS = set(string.ascii_lowercase + string.digits + "_-")
valid_ids = st.text(sorted(ID_CHARACTERS), min_size=1, max_size=255)
ODD_TEXTS = [
    "", ".", "..", "a/b", "../a", "a\n", "\na", "ü", "A", "٣", "a b", "a\x00", "\ud83d", "*",
    "x" * 255, "x" * 256, "scopes", "snapshots", "agent", "immutable_history", '"', '""', "latest",
]  # fmt: skip
not_text = st.none() | st.integers() | st.binary(max_size=4) | st.lists(any_text, max_size=1)


def is_given(value):
    return value is not None


any_id = valid_ids | any_text | st.sampled_from(ODD_TEXTS) | not_text
prefixes = (
    any_text
    | st.lists(valid_ids | st.sampled_from(ODD_TEXTS), max_size=4).map("/".join)
    | st.text("aü🌧/", min_size=80, max_size=400)
)
scopes = st.sampled_from(["agent", "multiAgent"])
snapshot_ids = st.from_regex(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", fullmatch=True
)
any_snapshot_id = (
    st.builds(lambda text, spell: spell(text), snapshot_ids, spellings)
    | st.builds(
        lambda text, place, scrap: text[:place] + scrap + text[place + len(scrap) :],
        snapshot_ids,
        st.integers(0, 36),
        any_text | st.sampled_from(["-", "4", "g", "٣", "/../"]),
    )
    | st.uuids().map(str)
    | any_id.filter(is_given)
)
any_etag = (
    st.text(string.printable, max_size=8)
    | st.text("abc", min_size=1).map('"{}"'.format)
    | st.sampled_from(["*", '"*"', "abc,def", '"abc","def"', "abc,"])
    | any_id.filter(is_given)
)


def is_id(value):
    return isinstance(value, str) and 1 <= len(value) <= 255 and set(value) <= ID_CHARACTERS


def is_scope(value):
    return value in ("agent", "multiAgent")


def is_snapshot_id(value):
    try:
        parsed = uuid.UUID(value)
    except (AttributeError, TypeError, ValueError):
        return False
    return (str(parsed), parsed.version) == (value.lower(), 7)


def is_odd(character):
    return character < " " or character == "\x7f" or "\ud800" <= character <= "\udfff"


def is_prefix(value):
    if not isinstance(value, str) or any(is_odd(c) for c in value):
        return False
    longest = SnapshotLocation("x" * 255, "multiAgent", "x" * 255)
    key = history_at(longest, IDS[0]).key(f"{value}/")
    return len(key.encode("utf-8", "surrogatepass")) <= 1024


def is_etag(value):
    """Whether it is one etag; `*` stands for any."""
    etag = value.removeprefix("W/").strip('"') if isinstance(value, str) else ""
    return bool(etag) and etag != "*" and all("!" <= c <= "~" and c != '"' for c in etag)


async def save_if_match(storage, value):
    with suppress(SnapshotConflictError):
        await save_latest(storage, LOCATION, 1, if_match=value)


async def checkpoint_if_match(storage, value):
    with suppress(SnapshotConflictError):
        await storage.checkpoint(
            location=LOCATION, snapshot=snapshot_of(LOCATION, 1), if_match=value
        )


async def walk_after(storage, value):
    async with aclosing(storage.iter_snapshot_ids(location=LOCATION, start_after=value)) as ids:
        await anext(ids, None)


ENTRANCES = {
    "a location's session": (
        any_id,
        is_id,
        lambda storage, value: storage.load_snapshot(location=SnapshotLocation.agent(value, "a")),
    ),
    "a location's scope": (
        scopes | any_id,
        is_scope,
        lambda storage, value: storage.load_snapshot(location=SnapshotLocation("s", value, "a")),
    ),
    "a location's scope id": (
        any_id,
        is_id,
        lambda storage, value: storage.load_snapshot(location=SnapshotLocation.agent("s", value)),
    ),
    "a session to delete": (
        any_id,
        is_id,
        lambda storage, value: storage.delete_session(session_id=value),
    ),
    "an id to load": (
        any_snapshot_id,
        is_snapshot_id,
        lambda storage, value: storage.load_snapshot(location=LOCATION, snapshot_id=value),
    ),
    "an id to save": (
        any_snapshot_id,
        is_snapshot_id,
        lambda storage, value: storage.save_snapshot(
            location=LOCATION,
            snapshot=snapshot_of(LOCATION, 1),
            is_latest=False,
            snapshot_id=value,
        ),
    ),
    "an id to checkpoint": (
        any_snapshot_id,
        is_snapshot_id,
        lambda storage, value: storage.checkpoint(
            location=LOCATION, snapshot=snapshot_of(LOCATION, 1), snapshot_id=value
        ),
    ),
    "a cursor of a list": (
        any_snapshot_id,
        is_snapshot_id,
        lambda storage, value: storage.list_snapshot_ids(location=LOCATION, start_after=value),
    ),
    "a cursor of a walk": (any_snapshot_id, is_snapshot_id, walk_after),
    "an etag of a save": (any_etag, is_etag, save_if_match),
    "an etag of a checkpoint": (any_etag, is_etag, checkpoint_if_match),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@given(data=st.data())
@examples(60)
async def test_what_is_not_valid_is_refused_before_any_request(entrance, data):
    values, is_valid, use = ENTRANCES[entrance]
    value = data.draw(values)
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(store) as storage:
        if is_valid(value):
            await use(storage, value)
            assert store.calls
        else:
            with pytest.raises(InvalidIdentifierError):
                await use(storage, value)
            assert store.calls == []


@given(prefixes | not_text)
@examples(150)
def test_a_prefix_is_refused_where_no_key_could_begin_with_it(prefix):
    with warnings.catch_warnings(category=UserWarning, action="ignore"):
        if is_prefix(prefix):
            ObjectSnapshotStorage(MemoryObjectStore(), prefix=prefix)
        else:
            with pytest.raises(InvalidIdentifierError):
                ObjectSnapshotStorage(MemoryObjectStore(), prefix=prefix)


@given(prefixes.filter(is_prefix), valid_ids, scopes, valid_ids, snapshot_ids)
@examples(100)
async def test_every_key_lies_in_its_session_and_tells_its_snapshot_id(
    prefix, session_id, scope, scope_id, snapshot_id
):
    location = SnapshotLocation(session_id, scope, scope_id)
    store = FaultyObjectStore(MemoryObjectStore())
    with warnings.catch_warnings(category=UserWarning, action="ignore"):
        storage, layout = ObjectSnapshotStorage(store, prefix=prefix), Layout(prefix)
    async with storage:
        await storage.checkpoint(
            location=location, snapshot=snapshot_of(location, 1), snapshot_id=snapshot_id
        )
        await storage.save_manifest(location=location, manifest=SnapshotManifest("1.0", CREATED_AT))
        listed = await storage.list_snapshot_ids(location=location)
        keys = {*store.inner.objects}
        deleted = await storage.delete_session(session_id=session_id)

    base = f"{prefix}/" if prefix else ""
    session = f"{base}{session_id}/"
    for key in (key for call in store.calls for key in call.keys):
        assert key.startswith(session)
        assert not {".", ".."} & set(key.removeprefix(base).split("/"))
        assert len(key.encode()) <= 1024
    names = latest_at(location), manifest_at(location), history_at(location, snapshot_id)
    assert keys == {name.key(base) for name in names}
    assert layout.snapshot_ids(keys, layout.history_prefix(location)) == [snapshot_id]
    assert listed == [snapshot_id]
    assert (deleted.objects, deleted.kept) == (3, 0)
