"""`SnapstoreConversationStore`: what Pydantic AI's own store does, and what only ours does."""

import ast
import asyncio
import dataclasses
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from pydantic_ai import Agent, DeferredToolRequests
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    InMemoryConversationStore,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.test import TestModel

from counting import CountingStore
from snapstore import (
    OutcomeUnknownError,
    SnapshotDecodeError,
    SnapshotEncodeError,
    StorageError,
    snapshot_id_at,
    snapshot_time,
)
from snapstore.integrations.pydantic_ai import EntryNotFoundError, SnapstoreConversationStore
from snapstore.stores import FileObjectStore, MemoryObjectStore, S3ObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

TestModel.__test__ = False


def said(text):
    return ModelRequest(parts=[UserPromptPart(content=text)])


def answered(text):
    return ModelResponse(parts=[TextPart(content=text)])


def texts(conversation):
    return [message.parts[0].content for message in conversation.messages]


@pytest.fixture(params=["its own", "memory", "file", pytest.param("s3", marks=pytest.mark.s3)])
async def store(request, tmp_path):
    if request.param == "its own":
        yield InMemoryConversationStore()
        return
    prefix = ""
    match request.param:
        case "memory":
            objects = MemoryObjectStore()
        case "file":
            objects = FileObjectStore(tmp_path)
        case "s3":
            server = request.getfixturevalue("s3_server")
            objects = S3ObjectStore(request.getfixturevalue("bucket"), **server.storage_options)
            prefix = request.getfixturevalue("prefix")
    async with SnapstoreConversationStore(objects, prefix=prefix) as store:
        yield store


async def talk(store, conversation_id, turns, *, scope=None):
    """Save a conversation of so many turns, each by a save of its own."""
    conversation = await store.load(conversation_id)
    conversation = conversation or Conversation(conversation_id=conversation_id)
    start = len(conversation.messages) // 2
    for turn in range(start, start + turns):
        conversation.messages += [said(f"q{turn}"), answered(f"a{turn}")]
        await store.save(conversation, scope=scope)
    return conversation


def turns(number):
    return [text for turn in range(number) for text in (f"q{turn}", f"a{turn}")]


# What its own store does, and ours


async def test_what_does_not_exist_is_none(store):
    assert await store.load("nobody") is None
    assert await store.load_entries("nobody") is None
    assert await store.list_conversations() == []
    await store.delete("nobody")
    with pytest.raises(LookupError):
        await store.read_entry(snapshot_id_at(datetime.now(UTC)))


async def test_a_conversation_is_saved_and_loaded(store):
    await talk(store, "c-1", 3)
    loaded = await store.load("c-1")
    assert texts(loaded) == turns(3)
    assert loaded.conversation_id == "c-1"
    entries = await store.load_entries("c-1")
    assert [entry.message for entry in entries] == loaded.messages
    assert [entry.parent_id for entry in entries] == [None, *(entry.id for entry in entries[:-1])]
    assert await store.read_entry(entries[2].id) == entries[2]


async def test_a_limit_loads_the_newest(store):
    await talk(store, "c-1", 4)
    assert texts(await store.load("c-1", limit=3)) == turns(4)[-3:]
    assert texts(await store.load("c-1", limit=100)) == turns(4)
    assert texts(await store.load("c-1", limit=0)) == []
    with pytest.raises(UserError):
        await store.load("c-1", limit=-1)


async def test_a_window_is_saved_onto_the_whole(store):
    await talk(store, "c-1", 3)
    window = await store.load("c-1", limit=2)
    window.messages += [said("q3"), answered("a3")]
    await store.save(window)
    assert texts(await store.load("c-1")) == turns(4)


async def test_of_two_that_loaded_the_same_one_is_in_conflict(store):
    await talk(store, "c-1", 1)
    one, other = await store.load("c-1"), await store.load("c-1")
    one.messages.append(said("one"))
    other.messages.append(said("other"))
    await store.save(one)
    with pytest.raises(ConversationConflict) as caught:
        await store.save(other)
    assert caught.value.conversation_id == "c-1"
    assert texts(await store.load("c-1")) == [*turns(1), "one"]
    with pytest.raises(ConversationConflict):
        await store.save(Conversation(messages=[said("new")], conversation_id="c-1"))


async def test_at_once_one_of_many_wins(store):
    async def save(number):
        conversation = Conversation(messages=[said(f"{number}")], conversation_id="c-1")
        await store.save(conversation)
        return number

    results = await asyncio.gather(*map(save, range(8)), return_exceptions=True)
    winners = [result for result in results if isinstance(result, int)]
    assert len(winners) == 1
    assert all(isinstance(r, ConversationConflict) for r in results if not isinstance(r, int))
    assert texts(await store.load("c-1")) == [f"{winners[0]}"]


async def test_a_deleted_conversation_is_gone_and_can_be_made_anew(store):
    kept = await talk(store, "c-1", 2)
    await store.delete("c-1")
    assert await store.load("c-1") is None
    assert await store.list_conversations() == []
    kept.messages.append(said("late"))
    with pytest.raises(ConversationConflict):
        await store.save(kept)
    await talk(store, "c-1", 1)
    assert texts(await store.load("c-1")) == turns(1)
    record = await store.read_record("c-1")
    with pytest.raises(ConversationConflict):
        await store.delete_record("c-1", expected_revision="another")
    await store.delete_record("c-1", expected_revision=record.revision)
    with pytest.raises(ConversationConflict):
        await store.delete_record("c-1", expected_revision=record.revision)


async def test_scopes_keep_conversations_apart(store):
    await talk(store, "c-1", 1, scope="ann@example.org")
    await talk(store, "c-2", 1, scope="ben")
    await talk(store, "c-3", 1)
    await talk(store, "c-4", 1, scope="ben")
    assert [r.conversation_id for r in await store.list_conversations(scope="ben")] == [
        "c-4",
        "c-2",
    ]
    assert [r.conversation_id for r in await store.list_conversations(limit=2)] == ["c-4", "c-3"]
    assert [r.conversation_id for r in await store.list_conversations(scope="nobody")] == []
    assert await store.load("c-1", scope="ben") is None
    assert await store.load("c-1", scope="ann@example.org") is not None
    await store.delete("c-1", scope="ben")
    assert await store.load("c-1") is not None


async def test_the_last_updated_comes_first(store):
    for number in range(4):
        await talk(store, f"c-{number}", 1)
    await talk(store, "c-1", 1)
    listed = [record.conversation_id for record in await store.list_conversations()]
    assert listed == ["c-1", "c-3", "c-2", "c-0"]


async def test_a_fork_shares_what_came_before_and_goes_its_own_way(store):
    await talk(store, "c-1", 3)
    fork = await store.fork("c-1", at=2, new_conversation_id="c-2")
    assert texts(fork) == turns(1)
    fork.messages += [said("x"), answered("y")]
    await store.save(fork)
    assert texts(await store.load("c-2")) == [*turns(1), "x", "y"]
    assert texts(await store.load("c-1")) == turns(3)
    record = await store.read_record("c-2")
    assert record.forked_from == "c-1"
    await store.delete("c-1")
    assert texts(await store.load("c-2")) == [*turns(1), "x", "y"]
    whole = await store.fork("c-2", new_conversation_id="c-3")
    assert texts(whole) == [*turns(1), "x", "y"]
    with pytest.raises(ConversationConflict):
        await store.fork("c-2", new_conversation_id="c-3")


async def test_a_fork_in_the_middle_of_a_save(store):
    conversation = Conversation(conversation_id="c-1")
    conversation.messages += [said(f"{n}") for n in range(6)]
    await store.save(conversation)
    fork = await store.fork("c-1", at=3, new_conversation_id="c-2")
    assert texts(await store.load("c-2")) == ["0", "1", "2"]
    fork.messages.append(said("x"))
    await store.save(fork)
    assert texts(await store.load("c-2")) == ["0", "1", "2", "x"]
    again = await store.fork("c-2", at=1, new_conversation_id="c-3")
    assert texts(again) == ["0"]


async def test_a_branch_leaves_the_old_one_to_come_back_to(store):
    conversation = await talk(store, "c-1", 3)
    left = (await store.load_entries("c-1"))[-1].id
    branched = await store.branch("c-1", at=2, expected_revision=conversation.revision)
    assert texts(branched) == turns(1)
    branched.messages += [said("x"), answered("y")]
    await store.save(branched)
    assert texts(await store.load("c-1")) == [*turns(1), "x", "y"]
    record = await store.read_record("c-1")
    assert record.branches == [left]
    back = await store.branch("c-1", from_entry=left, expected_revision=branched.revision)
    assert texts(back) == turns(3)
    with pytest.raises(ConversationConflict):
        await store.branch("c-1", at=1, expected_revision="another")


async def test_a_rewritten_history_branches_off(store):
    await talk(store, "c-1", 3)
    loaded = await store.load("c-1")
    rewritten = Conversation(
        messages=[*loaded.messages[:2], said("other")],
        conversation_id="c-1",
        revision=loaded.revision,
    )
    await store.save(rewritten)
    assert texts(await store.load("c-1")) == [*turns(1), "other"]


async def test_a_head_that_does_not_exist_is_a_conflict(store):
    record = ConversationRecord(conversation_id="c-1", head_id=snapshot_id_at(datetime.now(UTC)))
    with pytest.raises(ConversationConflict):
        await store.write_record(record, expected_revision=None)
    assert await store.load("c-1") is None


async def test_nothing_new_is_no_entry(store):
    conversation = await talk(store, "c-1", 1)
    assert await store.save(conversation) == []
    assert len(await store.load_entries("c-1")) == 2


async def test_an_id_is_any_text(store):
    for conversation_id in ("a/b", "..", "Zürich 🌧", "x" * 3_000, "user@example.com"):
        await talk(store, conversation_id, 1)
        assert texts(await store.load(conversation_id)) == turns(1)
    assert len(await store.list_conversations()) == 5


async def test_an_agent_goes_on_with_what_was_saved(store):
    agent = Agent(TestModel(custom_output_text="Sunny."), output_type=[str, DeferredToolRequests])
    for question in ("How is it?", "And now?"):
        conversation = await store.load("c-1") or Conversation(conversation_id="c-1")
        result = await agent.run(question, conversation=conversation)
        await store.save(result)
    loaded = await store.load("c-1")
    assert len(loaded.messages) == 4
    assert loaded.usage.requests == 2


# What only ours does


LONG_AGO = datetime.now(UTC) - timedelta(days=9)


def chain_at(times, parent_id=None):
    """Entries that follow each other, made at these times."""
    entries = []
    for number, time in enumerate(times):
        # Of one millisecond there is one least id.
        entry_id = f"{snapshot_id_at(time)[:-2]}{number:02x}"
        message = said(f"{len(entries)} of {time:%j %T}")
        entries.append(ConversationEntry(id=entry_id, parent_id=parent_id, message=message))
        parent_id = entry_id
    return entries


async def save_at(store, conversation_id, *saves, forked_from=None):
    """Save a conversation by a save for each list of times; returns all of its entries."""
    entries, record = [], None
    for times in saves:
        added = chain_at(times, entries[-1].id if entries else None)
        entries += added
        revision = record and record.revision
        record = ConversationRecord(conversation_id=conversation_id, head_id=added[-1].id)
        await store.write_record(record, new_entries=added, expected_revision=revision)
    return entries


def aged(objects, days=9):
    """Make all that is there older: as if it had been written so many days before."""
    older = {}
    for key in objects:
        if key.startswith(("entries/", "deleted/")):
            written = key.removesuffix(".json")[-36:]
            time = snapshot_time(written) - timedelta(days)
            older[written] = f"{snapshot_id_at(time)[:13]}{written[13:]}"
    text = repr(objects)
    for written, before in older.items():
        text = text.replace(written, before)
    objects.clear()
    objects.update(ast.literal_eval(text))


class Meets:
    """Does something once, before a call of a store that it is the fault of."""

    def __init__(self, is_met, do):
        self.is_met, self.do, self.was_met = is_met, do, False

    async def __call__(self, call):
        if not self.was_met and self.is_met(call):
            self.was_met = True
            await self.do()


def puts_a_record(call):
    return call.operation == "put" and call.keys[0].startswith("records/")


@pytest.mark.parametrize("work", ["save", "fork", "fork of a branch"])
async def test_garbage_that_is_collected_beside_a_save_leaves_all_that_it_needs(work):
    """All but what the save itself writes is old; the save gathers 16 batches."""
    objects = MemoryObjectStore()
    faulty = FaultyObjectStore(objects)
    one, two = SnapstoreConversationStore(faulty), SnapstoreConversationStore(objects)
    async with one as store, two as other:
        minute = timedelta(minutes=1)
        times = [[LONG_AGO + turn * minute, LONG_AGO + turn * minute] for turn in range(16)]
        entries = await save_at(other, "c-1", *times)
        if work == "fork of a branch":
            loaded = await other.load("c-1")
            await other.branch("c-1", at=5, expected_revision=loaded.revision)
        aged(objects.objects)
        faulty.fault = Meets(puts_a_record, other.collect_garbage)
        match work:
            case "save":
                loaded = await store.load("c-1")
                loaded.messages.append(said("next"))
                entries += await store.save(loaded)
                assert await other.load_entries("c-1") == entries
            case "fork":
                await store.fork("c-1", at=5, new_conversation_id="c-2")
                assert await other.load_entries("c-2") == entries[:5]
            case _:
                await store.fork("c-1", from_entry=entries[8].id, new_conversation_id="c-2")
                assert await other.load_entries("c-2") == entries[:9]
        assert faulty.fault.was_met


@pytest.mark.parametrize("when", range(4))
async def test_a_fork_of_what_is_deleted_beside_a_collection_keeps_its_entries(when):
    """It is a move: a fork under another name, and then the first one is deleted."""
    objects = MemoryObjectStore()
    faulty = FaultyObjectStore(objects)
    one, two = SnapstoreConversationStore(faulty), SnapstoreConversationStore(objects)
    async with one as store, two as other:
        await talk(other, "c-1", 20)
        await talk(other, "c-0", 2)
        aged(objects.objects)

        async def move():
            await other.fork("c-1", new_conversation_id="b-1")
            await other.delete("c-1")

        calls = 0

        def is_met(call):
            nonlocal calls
            calls += call.operation == "scan" or call.keys[0].startswith("records/")
            return calls > when

        faulty.fault = Meets(is_met, move)
        await store.collect_garbage()
        assert faulty.fault.was_met
        assert texts(await other.load("b-1")) == turns(20)
        # Once the note is old, nothing of it is left but what the fork reaches.
        aged(objects.objects)
        await other.collect_garbage()
        assert texts(await other.load("b-1")) == turns(20)
        assert not [key for key in objects.objects if key.startswith("deleted/")]


async def test_large_messages_are_not_gathered_into_what_no_object_can_hold():
    async with SnapstoreConversationStore(MemoryObjectStore()) as store:
        conversation = Conversation(conversation_id="c-1")
        large = "x" * (5 * 2**20)
        for number in range(18):
            conversation.messages += [said(f"{number} {large}")]
            await store.save(conversation)
        await talk(store, "c-1", 20)
        assert len((await store.load("c-1")).messages) == 18 + 40
        conversation = await store.load("c-1")
        conversation.messages += [said(large)] * 7
        with pytest.raises(SnapshotEncodeError, match="too large"):
            await store.save(conversation)


@pytest.mark.parametrize("saves", ["far apart", "clocks that differ"])
async def test_each_entry_is_found_whenever_it_was_made(saves):
    hour = timedelta(hours=1)
    if saves == "far apart":
        times = [[LONG_AGO + hour * (3 * turn + n) for n in range(3)] for turn in range(20)]
    else:
        times = [[LONG_AGO + hour * (1 - turn % 2) + turn * hour / 99] for turn in range(20)]
    async with SnapstoreConversationStore(MemoryObjectStore()) as store:
        entries = await save_at(store, "c-1", *times)
        for _ in range(2):
            for entry in entries:
                assert await store.read_entry(entry.id) == entry
            for place, entry in enumerate(entries):
                name = f"fork {place}"
                await store.fork("c-1", from_entry=entry.id, new_conversation_id=name)
                assert await store.load_entries(name) == entries[: place + 1]
                await store.delete(name)
            assert await store.load_entries("c-1") == entries
            await store.collect_garbage(grace=timedelta())


async def test_the_same_entries_may_be_written_again_after_a_failure():
    faulty = FaultyObjectStore(MemoryObjectStore())
    async with SnapstoreConversationStore(faulty) as store:
        [entry] = chain_at([LONG_AGO])
        record = ConversationRecord(conversation_id="c-1", head_id=entry.id)

        async def fail(call):
            return StoreFault() if puts_a_record(call) else None

        faulty.fault = fail
        with pytest.raises(StorageError):
            await store.write_record(record, new_entries=[entry], expected_revision=None)
        faulty.fault = no_fault
        await store.write_record(record, new_entries=[entry], expected_revision=None)
        assert await store.load_entries("c-1") == [entry]


async def no_fault(_):
    return None


@pytest.mark.parametrize("fault", [StoreFault(applied=True), StoreFault(applied=True, stall=True)])
async def test_a_lost_response_is_read_back(fault):
    faulty = FaultyObjectStore(MemoryObjectStore())

    async def lose(call):
        return fault if puts_a_record(call) else None

    async with SnapstoreConversationStore(faulty, timeout=0.5) as store:
        faulty.fault = lose
        await talk(store, "c-1", 2)
        faulty.fault = no_fault
        assert texts(await store.load("c-1")) == turns(2)
        faulty.fault = lose
        await store.delete("c-1")
        faulty.fault = no_fault
        assert await store.load("c-1") is None


async def test_a_lost_response_that_nothing_can_tell_of_is_said_to_be_unknown():
    objects = MemoryObjectStore()
    faulty = FaultyObjectStore(objects)
    one, two = SnapstoreConversationStore(faulty), SnapstoreConversationStore(objects)
    async with one as store, two as other:
        conversation = await talk(other, "c-1", 1)

        async def lose(call):
            if puts_a_record(call):
                return StoreFault(applied=True)
            if len(faulty.calls) > 1 and puts_a_record(faulty.calls[-2]):
                await talk(other, "c-1", 1)  # and somebody goes on from it
            return None

        faulty.fault = lose
        conversation.messages.append(said("in doubt"))
        with pytest.raises(OutcomeUnknownError):
            await store.save(conversation)


async def test_what_is_left_to_tidy_up_after_a_change_does_not_make_it_a_failure(caplog):
    faulty = FaultyObjectStore(MemoryObjectStore())

    async def fail_after_the_record(call):
        before = faulty.calls[:-1]
        return StoreFault() if any(map(puts_a_record, before)) else None

    async with SnapstoreConversationStore(faulty) as store:
        for change in (lambda: talk(store, "c-1", 1), lambda: store.delete("c-1")):
            faulty.calls.clear()
            faulty.fault = fail_after_the_record
            await change()
            faulty.fault = no_fault
            assert "not all that goes with it" in caplog.text
            caplog.clear()
        assert await store.load("c-1") is None
        assert await store.list_conversations(scope=None) == []


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("meeting", ["a delete meets a save", "a save meets a delete"])
async def test_a_conversation_that_is_made_anew_while_it_is_deleted_is_listed(meeting, conditional):
    class Objects(MemoryObjectStore):
        async def has_conditional_deletes(self, scratch_key):
            return conditional

    meets_at, was_met = 0, True
    while was_met:
        objects = Objects()
        faulty = FaultyObjectStore(objects)
        one, two = SnapstoreConversationStore(faulty), SnapstoreConversationStore(objects)
        async with one as store, two as other:
            await talk(other, "c-1", 1, scope="ann")
            if meeting == "a save meets a delete":
                await other.delete("c-1")

            async def make_anew():
                if await other.load("c-1") is None:
                    await talk(other, "c-1", 1, scope="ann")

            async def make_and_delete():
                with suppress(ConversationConflict):
                    await talk(other, "c-1", 1, scope="ann")
                await other.delete("c-1")

            is_delete = meeting == "a delete meets a save"
            do = make_anew if is_delete else make_and_delete
            meets = Meets(lambda _: len(faulty.calls) > meets_at, do)  # noqa: B023
            faulty.fault = meets
            with suppress(ConversationConflict):
                await (store.delete("c-1") if is_delete else talk(store, "c-1", 1, scope="ann"))
            was_met = meets.was_met
            there = await other.load("c-1") is not None
            assert [r.conversation_id for r in await other.list_conversations(scope="ann")] == (
                ["c-1"] * there
            )
        meets_at += 1
    assert meets_at > 5


@pytest.mark.parametrize("part", ["entries/", "records/"])
async def test_what_is_of_a_newer_format_is_left_alone(part):
    objects = MemoryObjectStore()
    async with SnapstoreConversationStore(objects) as store:
        conversation = await talk(store, "c-1", 1)
        [key] = [key for key in objects.objects if key.startswith(part)]
        body = objects.objects[key].replace(b'"version":1', b'"version":2')
        body = body.replace(b'"format_version":1', b'"format_version":2')
        assert body != objects.objects[key]
        objects.objects[key] = body
        with pytest.raises(SnapshotDecodeError):
            await store.load("c-1")
        with pytest.raises(SnapshotDecodeError):
            await store.collect_garbage(grace=timedelta())
        conversation.messages.append(said("more"))
        with pytest.raises(SnapshotDecodeError):
            await store.save(conversation)
        assert objects.objects[key] == body


async def test_a_part_of_a_history_that_is_missing_is_damage_and_no_conflict():
    objects = MemoryObjectStore()
    async with SnapstoreConversationStore(objects) as store:
        await talk(store, "c-1", 16)
        window = await store.load("c-1", limit=2)
        del objects.objects[min(key for key in objects.objects if key.startswith("entries/"))]
        window.messages.append(said("more"))
        with pytest.raises(SnapshotDecodeError, match="lost a part"):
            await store.save(window)
        with pytest.raises(EntryNotFoundError):
            await store.load("c-1")


async def test_what_json_cant_carry_is_refused_before_any_request():
    faulty = FaultyObjectStore(MemoryObjectStore())
    async with SnapstoreConversationStore(faulty) as store:
        returned = ToolReturnPart(tool_name="t", content=object(), tool_call_id="1")
        [entry] = chain_at([LONG_AGO])
        entry = dataclasses.replace(entry, message=ModelRequest(parts=[returned]))
        record = ConversationRecord(conversation_id="c-1", head_id=entry.id)
        with pytest.raises(SnapshotEncodeError) as caught:
            await store.write_record(record, new_entries=[entry], expected_revision=None)
        assert "object object" not in str(caught.value)
        assert not faulty.calls
        # Half of an emoji, as a model that is cut off leaves it, is text.
        conversation = Conversation(messages=[said("a\ud83d")], conversation_id="\ud83d")
        await store.save(conversation, scope="\ud83d")
        assert texts(await store.load("\ud83d")) == ["a\ud83d"]


async def test_records_are_read_so_many_at_a_time():
    objects = CountingStore()
    async with SnapstoreConversationStore(objects) as store:
        for number in range(150):
            await talk(store, f"c-{number}", 1)
        assert len(await store.list_conversations()) == 150
        assert len(await store.list_conversations(limit=3)) == 3
    assert 50 < objects.most <= 100


async def test_a_long_history_takes_few_requests():
    objects = FaultyObjectStore(MemoryObjectStore())
    async with SnapstoreConversationStore(objects) as store:
        await talk(store, "c-1", 500)
        objects.calls.clear()
        loaded = await store.load("c-1")
        assert texts(loaded) == turns(500)
        assert len(objects.calls) <= 60
        objects.calls.clear()
        assert texts(await store.load("c-1", limit=4)) == turns(500)[-4:]
        assert len(objects.calls) <= 5
        objects.calls.clear()
        loaded.messages.append(said("more"))
        await store.save(loaded)
        assert len(objects.calls) <= 30


async def test_garbage_is_what_no_conversation_reaches():
    objects = MemoryObjectStore()
    async with SnapstoreConversationStore(objects) as store:
        await talk(store, "c-1", 60)
        entry_ids = [entry.id for entry in await store.load_entries("c-1")]
        fork = await store.fork("c-1", at=31, new_conversation_id="c-2")
        conversation = await store.load("c-1")
        await store.branch("c-1", at=50, expected_revision=conversation.revision)
        await talk(store, "gone", 20)
        await store.delete("gone")
        assert (await store.collect_garbage()).batches == 0  # all of it is young
        none = timedelta()
        dry = await store.collect_garbage(dry_run=True, grace=none)
        before = dict(objects.objects)
        assert dry.batches > 20
        assert await store.collect_garbage(grace=none) == dry
        assert before.keys() - objects.objects.keys() == set(dry.keys)
        assert len(dry.keys) == dry.batches + 1  # and the note of what was deleted
        assert dry.bytes > 1_000 * dry.batches
        assert texts(await store.load("c-1")) == turns(60)[:50]
        assert texts(await store.load("c-2")) == texts(fork) == turns(60)[:31]
        assert (await store.collect_garbage(grace=none)).batches == 0
        # What lies in an object together is still found, one by one and as a point to go on from.
        assert (await store.read_entry(entry_ids[5])).message.parts[0].content == "a2"
        again = await store.fork("c-1", at=7, new_conversation_id="c-3")
        assert texts(again) == turns(60)[:7]
        record = await store.read_record("c-1")
        back = await store.branch(
            "c-1", from_entry=record.branches[0], expected_revision=record.revision
        )
        assert texts(back) == turns(60)
        with pytest.raises(ValueError, match="negative"):
            await store.collect_garbage(grace=-timedelta(1))


@pytest.mark.parametrize("applied", [False, True])
async def test_killed_at_any_call_a_save_is_there_or_not_and_nothing_else(applied):
    fails_at, was_hit = 0, True
    while was_hit:
        fails_at += 1
        objects = FaultyObjectStore(MemoryObjectStore())
        async with SnapstoreConversationStore(objects) as store:
            await talk(store, "c-1", 17)
            calls, was_hit = 0, False

            async def fault(_):
                nonlocal calls, was_hit
                calls += 1
                was_hit = was_hit or calls >= fails_at  # noqa: B023
                if calls < fails_at:  # noqa: B023
                    return None
                return StoreFault(applied=applied and calls == fails_at)  # noqa: B023

            async def no_fault(_):
                return None

            conversation = await store.load("c-1")
            conversation.messages += [said("q17"), answered("a17")]
            objects.fault = fault
            saved = False
            try:
                await store.save(conversation)
                saved = True
            except (StorageError, ConversationConflict):
                pass
            objects.fault = no_fault
            loaded = texts(await store.load("c-1"))
            assert loaded in ([turns(18)] if saved else [turns(17), turns(18)])
            again = await store.load("c-1")
            again.messages.append(said("next"))
            await store.save(again)
            assert texts(await store.load("c-1")) == [*loaded, "next"]
    assert fails_at > 5


async def test_entries_that_are_no_chain_are_refused():
    async with SnapstoreConversationStore(MemoryObjectStore()) as store:
        entries = [ConversationEntry(parent_id=None, message=said(f"{n}")) for n in range(2)]
        record = ConversationRecord(conversation_id="c-1", head_id=entries[-1].id)
        with pytest.raises(ValueError, match="chain"):
            await store.write_record(record, new_entries=entries, expected_revision=None)
        backwards = chain_at([LONG_AGO, LONG_AGO - timedelta(1)])
        upper = [ConversationEntry(id=entries[0].id.upper(), parent_id=None, message=said("a"))]
        for wrong in (backwards, upper):
            record = ConversationRecord(conversation_id="c-1", head_id=wrong[-1].id)
            with pytest.raises(ValueError, match=r"ascending|lower case"):
                await store.write_record(record, new_entries=wrong, expected_revision=None)
        assert await store.load("c-1") is None


@pytest.mark.parametrize("body", [b"canary", b"[]", b'{"canary":1}'])
async def test_what_is_no_conversation_is_an_error_that_shows_nothing(body):
    objects = MemoryObjectStore()
    async with SnapstoreConversationStore(objects) as store:
        await talk(store, "c-1", 1)
        for part, call in (("entries/", store.load), ("records/", store.load)):
            key = next(key for key in objects.objects if key.startswith(part))
            kept, objects.objects[key] = objects.objects[key], body
            with pytest.raises(SnapshotDecodeError) as caught:
                await call("c-1")
            assert "canary" not in str(caught.value)
            assert caught.value.__cause__ is None
            objects.objects[key] = kept


async def test_an_entry_that_is_gone_is_a_lookup_error():
    objects = MemoryObjectStore()
    async with SnapstoreConversationStore(objects) as store:
        await talk(store, "c-1", 2)
        for key in [key for key in objects.objects if key.startswith("entries/")]:
            del objects.objects[key]
        with pytest.raises(EntryNotFoundError) as caught:
            await store.load("c-1")
        assert isinstance(caught.value, LookupError)


async def test_where_deletes_have_no_conditions_a_deleted_one_can_be_made_anew():
    class Ignores(MemoryObjectStore):
        async def has_conditional_deletes(self, scratch_key):
            return False

    async with SnapstoreConversationStore(Ignores()) as store:
        await talk(store, "c-1", 2)
        await store.delete("c-1")
        assert await store.load("c-1") is None
        assert await store.list_conversations() == []
        await talk(store, "c-1", 1)
        assert texts(await store.load("c-1")) == turns(1)
