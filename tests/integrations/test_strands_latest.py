"""What an agent writes over, whatever is under way at once; without the SDK."""

import asyncio
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import snapstore
from examples import examples
from snapstore.integrations.strands.backend import Backend
from snapstore.integrations.strands.latest import LastKnown
from snapstore.stores import PreconditionFailedError
from snapstore.stores.memory import MemoryObjectStore
from snapstore.testing.doubles import FaultyObjectStore, StoreCall, StoreFault

LATEST = "s/scopes/agent/a/snapshots/snapshot_latest.json"
HISTORY = "s/scopes/agent/a/snapshots/immutable_history/snapshot_{}.json"


def document_of(state):
    return (
        b'{"scope":"agent","schema_version":"1.0","created_at":"2026-01-01T00:00:00Z",'
        b'"data":{"state":{"n":%d}},"app_data":{}}' % state
    )


def backend_in(store, **changes):
    options = {"dialect": "python", "max_bytes": 100_000, "timeout": 30.0}
    return Backend(lambda: store, **options | changes)


@pytest.fixture
def store():
    return FaultyObjectStore(MemoryObjectStore())


class Writer:
    """An agent, as far as its session is concerned: its state is a number that grows."""

    count = itertools.count()

    def __init__(self, backend):
        self.backend = backend
        self.known = LastKnown()

    async def save(self, state, *, force=False, taken=None):
        taken = next(self.count) if taken is None else taken
        return await self.backend.latest.write(
            LATEST, document_of(state), self.known, taken=taken, force=force
        )

    async def append(self, name):
        await self.backend.latest.append(
            HISTORY.format(name), document_of(0), self.known, latest=LATEST
        )

    async def restore(self, *, must_exist=False, take_over=None):
        found = await self.backend.latest.read(LATEST, self.known, must_exist=must_exist)
        if take_over is not None:
            await take_over()
        await self.backend.latest.adopt(self.known, found, taken=next(self.count))
        return found.stored is not None


@pytest.fixture
async def open_backend(store):
    """A function that opens a backend of the store; they are closed at the end of the test."""
    made = []

    async def open_one(**changes):
        made.append(backend_in(store, **changes))
        await made[-1].open()
        return made[-1]

    yield open_one
    store.fault = passing
    for backend in made:
        await backend.aclose()


@pytest.fixture
async def writer(open_backend):
    """A function that makes agents of one session."""
    backend = await open_backend()
    return lambda on=backend: Writer(on)


async def state_in(store):
    stored = await store.inner.get(LATEST, max_bytes=100_000)
    return None if stored is None else int(stored.data.partition(b'"n":')[2].partition(b"}")[0])


def puts_of(store):
    return [call for call in store.calls if call.operation == "put"]


async def passing(call):
    return None


async def test_an_agent_writes_over_what_it_knows_and_nothing_else(writer, store):
    one, two = writer(), writer()
    assert not await one.save(1)
    with pytest.raises(snapstore.SnapshotConflictError, match="another writer came first"):
        await two.save(2)
    assert not await one.save(3)
    assert await state_in(store) == 3


async def test_to_force_a_write_replaces_another_writers(writer, store):
    one, two = writer(), writer()
    await one.save(1)

    assert await two.save(2, force=True)
    assert not await two.save(3, force=True)
    with pytest.raises(snapstore.SnapshotConflictError):
        await one.save(4)
    assert await state_in(store) == 3


async def test_other_writers_snapshot_may_exceed_the_read_limit(store, open_backend):
    agent = Writer(await open_backend(max_bytes=500))
    await agent.save(1)
    await store.inner.put(LATEST, document_of(2) + b" " * 500)

    for force in (False, True):
        with pytest.raises(snapstore.SnapshotConflictError, match="another writer came first"):
            await agent.save(3, force=force)
    assert await state_in(store) == 2


@pytest.mark.parametrize("applied", [True, False])
async def test_a_write_without_a_response_is_written_over_by_its_agent(applied, writer, store):
    agent = writer()
    await agent.save(1)

    async def lose(call):
        if call.operation != "put":
            return None
        store.fault = passing
        return StoreFault(applied=applied, error=snapstore.OutcomeUnknownError)

    store.fault = lose
    with pytest.raises(snapstore.OutcomeUnknownError):
        await agent.save(2)
    await agent.save(3)

    assert await state_in(store) == 3


async def test_own_write_is_recognised_with_other_padding(writer, store):
    agent = writer()

    async def lose(call):
        return StoreFault(applied=True) if call.operation == "put" else None

    store.fault = lose
    with pytest.raises(snapstore.OutcomeUnknownError):
        await agent.save(1)
    store.fault = passing
    await store.inner.put(LATEST, document_of(1) + b" \t \n")
    await agent.save(2)

    assert await state_in(store) == 2


async def test_write_without_a_response_replaces_no_other_writers(writer, store, open_backend):
    async def stall(call):
        return StoreFault(stall=True) if call.operation == "put" else None

    agent = writer(await open_backend(timeout=0.05))
    store.fault = stall
    with pytest.raises(snapstore.StorageTimeoutError):
        await agent.save(1)
    store.fault = passing
    agent.backend = await open_backend()
    await writer().save(2)

    with pytest.raises(snapstore.SnapshotConflictError):
        await agent.save(3)
    assert await state_in(store) == 2


async def test_a_restore_ends_what_was_unconfirmed(writer, store):
    agent = writer()

    async def lose(call):
        return StoreFault(applied=True) if call.operation == "put" else None

    store.fault = lose
    with pytest.raises(snapstore.OutcomeUnknownError):
        await agent.save(1)
    store.fault = passing
    await store.inner.put(LATEST, document_of(2))
    assert await agent.restore()
    await store.inner.put(LATEST, document_of(1))  # by somebody else, and not seen

    with pytest.raises(snapstore.SnapshotConflictError):
        await agent.save(3)


async def test_an_older_state_is_not_written_over_a_newer_one(writer, store):
    agent = writer()
    older, newer = next(agent.count), next(agent.count)
    await agent.save(2, taken=newer)
    writes = len(puts_of(store))

    assert not await agent.save(1, taken=older)

    assert await state_in(store) == 2
    assert len(puts_of(store)) == writes


async def test_older_state_never_replaces_a_newer_unconfirmed_one(writer, store):
    agent = writer()
    older, newer = next(agent.count), next(agent.count)

    async def lose(call):
        return StoreFault(applied=True) if call.operation == "put" else None

    store.fault = lose
    with pytest.raises(snapstore.OutcomeUnknownError):
        await agent.save(2, taken=newer)
    store.fault = passing

    assert not await agent.save(1, taken=older)
    assert await state_in(store) == 2


async def test_a_state_from_before_a_restore_is_not_written_after_it(writer, store):
    agent = writer()
    await agent.save(1)
    before = next(agent.count)
    await writer().save(2, force=True)
    assert await agent.restore()

    with pytest.raises(snapstore.SnapshotConflictError, match="restored after its state was taken"):
        await agent.save(3, taken=before)
    assert await state_in(store) == 2
    await agent.save(4)


async def test_the_deadline_covers_the_wait_for_other_saves(writer, store, open_backend):
    async def stall(call):
        return StoreFault(stall=True)

    agent = writer(await open_backend(timeout=0.3))
    store.fault = stall
    saves = [agent.save(state) for state in range(3)]
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*saves, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [snapstore.StorageTimeoutError] * 3
    store.fault = passing
    agent.backend = await open_backend()
    await agent.save(3)
    assert await state_in(store) == 3


FORCE = pytest.mark.parametrize("force", [False, True])


@FORCE
@pytest.mark.parametrize("knows_it_by", ["saving", "restoring"])
async def test_what_was_deleted_is_not_written_again(force, knows_it_by, writer, store):
    agent = writer()
    await (agent if knows_it_by == "saving" else writer()).save(1)
    assert await agent.restore()
    await store.inner.delete([LATEST])

    for state in (2, 3, 4):
        with pytest.raises(snapstore.SessionDeletedError) as caught:
            await agent.save(state, force=force)
        with pytest.raises(snapstore.SessionDeletedError):
            await agent.append(state)
        assert caught.value.key == LATEST
    with pytest.raises(snapstore.SessionDeletedError):
        await agent.restore(must_exist=True)

    assert await store.inner.get(LATEST, max_bytes=100) is None
    assert await agent.backend.objects.keys("") == []


@FORCE
async def test_history_is_not_written_into_a_deleted_session(force, writer, store):
    agent = writer()
    await agent.save(1)
    await store.inner.delete([LATEST])

    with pytest.raises(snapstore.SessionDeletedError):
        await agent.append("first")
    with pytest.raises(snapstore.SessionDeletedError):
        await agent.save(2, force=force)

    assert await agent.backend.objects.keys("") == []


async def test_agent_with_history_only_knows_its_session(writer, store):
    wrote, read = writer(), writer()
    await wrote.append("first")
    await read.backend.latest.adopt_history(
        read.known, HISTORY.format("first"), taken=next(read.count)
    )
    await wrote.append("second")
    await store.inner.delete([HISTORY.format(name) for name in ("first", "second")])

    for agent in (wrote, read):
        for _ in range(2):
            with pytest.raises(snapstore.SessionDeletedError):
                await agent.save(1)
            with pytest.raises(snapstore.SessionDeletedError):
                await agent.append("third")
    assert await wrote.backend.objects.keys("") == []

    assert not await read.restore()
    await read.save(1)


async def test_session_deleted_and_begun_by_another_is_not_replaced(writer, store):
    agent = writer()
    await agent.save(1)
    await store.inner.delete([LATEST])
    with pytest.raises(snapstore.SessionDeletedError):
        await agent.save(2, force=True)
    await writer().save(3)

    with pytest.raises(snapstore.SessionDeletedError):
        await agent.save(4, force=True)
    assert await state_in(store) == 3
    assert await agent.restore()
    await agent.save(5)


async def test_who_restores_on_purpose_begins_a_new_session(writer, store):
    agent = writer()
    await agent.save(1)
    await store.inner.delete([LATEST])
    with pytest.raises(snapstore.SessionDeletedError):
        await agent.save(2)

    assert not await agent.restore()
    await agent.save(3)
    assert await state_in(store) == 3


async def test_forced_write_restores_nothing_deleted_meanwhile(writer, store, open_backend):
    agent = writer()
    await agent.save(1)
    await writer(await open_backend()).save(2, force=True)

    async def delete_before_the_second_put(call):
        if call.operation == "put" and len(puts_of(store)) == tried + 2:
            await store.inner.delete([LATEST])

    tried = len(puts_of(store))
    store.fault = delete_before_the_second_put
    with pytest.raises(snapstore.SessionDeletedError):
        await agent.save(3, force=True)
    assert await store.inner.get(LATEST, max_bytes=100) is None


async def test_a_delete_is_for_those_who_had_a_part_in_the_session(writer, store):
    saved, new, unsure = writer(), writer(), writer()
    await saved.save(1)

    async def lose(call):
        return StoreFault(applied=True) if call.operation == "put" else None

    await store.inner.delete([LATEST])
    store.fault = lose
    with pytest.raises(snapstore.OutcomeUnknownError):
        await unsure.save(2)
    store.fault = passing
    await store.inner.delete([LATEST])
    await new.backend.latest.mark_deleted([agent.known for agent in (saved, new, unsure)])

    for agent in (saved, unsure):
        with pytest.raises(snapstore.SessionDeletedError):
            await agent.save(3)
    await new.save(4)
    assert await state_in(store) == 4


class GatedStore(FaultyObjectStore):
    """Holds up each call before and after it is done, until it is let through.

    A put can lose its response, and be done at once, never, or when it is let through again.
    """

    def __init__(self):
        super().__init__(MemoryObjectStore())
        self.gates = []
        self.applied = []

    async def _through(self, call, act):
        end = await self._gate(call)
        if end == "lost" or (end == "late" and call.operation == "put"):
            if end == "late":
                self.gates.append((call, act))
            raise snapstore.OutcomeUnknownError("lost")
        result = await act()
        await self._applied(call)
        if await self._gate(call) == "lost":
            raise snapstore.OutcomeUnknownError("lost")
        return result

    async def _gate(self, call):
        gate = asyncio.get_running_loop().create_future()
        self.gates.append((call, gate))
        return await gate

    async def agent_takes_over(self):
        """Stand for an agent that takes over what was read; it does so when it is let through."""
        await self._gate(StoreCall("get", ()))

    async def _applied(self, call):
        if call.operation == "put":
            self.applied.append(await state_in(self))

    async def let_through(self, index, end="done"):
        """Let one of those that wait go on, and wait until nothing else can."""
        call, gate = self.gates.pop(index % len(self.gates))
        if isinstance(gate, asyncio.Future):
            gate.set_result(end)
        else:
            try:
                await gate()
            except PreconditionFailedError:
                pass
            else:
                await self._applied(call)
        await idle()


async def idle():
    for _ in range(30):
        await asyncio.sleep(0)


class Session:
    """One agent in a gated store, and what has become of all that it was told to do."""

    def __init__(self):
        self.store = GatedStore()
        self.agent = Writer(backend_in(self.store, timeout=None))
        self.states = itertools.count()
        self.taken, self.saves, self.restores = [], [], []
        self.deleted_at = None

    def take(self):
        self.taken.append((next(self.states), next(self.agent.count)))

    def send(self):
        if self.taken:
            state, taken = self.taken.pop()
            save = asyncio.ensure_future(self.agent.save(state, taken=taken))
            self.saves.append((state, save))

    def restore(self):
        restoring = self.agent.restore(must_exist=True, take_over=self.store.agent_takes_over)
        self.restores.append(asyncio.ensure_future(restoring))

    async def delete(self):
        if self.deleted_at is None and self.agent.known.version is not None:
            await self.store.inner.delete([LATEST])
            self.deleted_at = len(self.store.applied)
            # What a request creates that comes even later is not for a delete to prevent.
            self.store.gates = [
                gate for gate in self.store.gates if isinstance(gate[1], asyncio.Future)
            ]

    async def do(self, step):
        if step in ("take", "save"):
            self.take()
        if step in ("send", "save"):
            self.send()
        if step == "restore":
            self.restore()
        if step == "delete":
            await self.delete()
        if isinstance(step, tuple) and self.store.gates:
            await self.store.let_through(*step)
        await idle()

    async def end(self):
        """Let all go on that waits, and return how the saves ended."""
        while self.store.gates:
            await self.store.let_through(0)
        tasks = [task for _, task in self.saves]
        await asyncio.gather(*tasks, *self.restores, return_exceptions=True)
        return [(state, task.exception()) for state, task in self.saves]


def is_refused_for_a_restore(error):
    conflict = isinstance(error, snapstore.SnapshotConflictError)
    return conflict and "restored after its state was taken" in str(error)


DONE = [(0, "done")] * 9

steps = st.one_of(
    st.sampled_from(["save", "take", "send", "restore", "delete"]),
    st.tuples(st.integers(0, 9), st.sampled_from(["done", "done", "done", "lost", "late"])),
)


@examples(300)
@given(schedule=st.lists(steps, max_size=40))
@example(  # a write is applied after a restore that has not seen it
    schedule=["save", *DONE[:2], "save", (0, "late"), "restore", *[(1, "done")] * 3, (0, "done")]
)
def test_whatever_is_under_way_one_agent_is_never_in_its_own_way(schedule):
    """In any order of requests, lost and late ones among them, its saves never conflict.

    What it has saved is never replaced by what it was before, and what was deleted never comes
    back. Only a state that was taken before a restore is refused after it.
    """

    async def run():
        session = Session()
        await session.agent.backend.open()
        for step in schedule:
            await session.do(step)
        outcomes = await session.end()
        is_deleted = session.deleted_at is not None

        applied = session.store.applied
        assert applied == sorted(set(applied)), "an older state replaced a newer one"
        allowed = (snapstore.OutcomeUnknownError,)
        if is_deleted:
            allowed += (snapstore.SessionDeletedError,)
            assert applied[session.deleted_at :] == []
            assert await state_in(session.store) is None
        for state, error in outcomes:
            if error is None and not is_deleted:
                assert await state_in(session.store) >= state
            elif is_refused_for_a_restore(error):
                assert session.restores
            elif error is not None:
                assert isinstance(error, allowed)

        await session.do("save")
        *_, (_, error) = await session.end()
        assert type(error) is (snapstore.SessionDeletedError if is_deleted else type(None))
        await session.agent.backend.aclose()

    asyncio.run(run())
