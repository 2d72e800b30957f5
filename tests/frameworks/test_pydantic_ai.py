"""`SnapstoreConversationStore`: what Pydantic AI's own store does, and what only ours does."""

import asyncio
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
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.test import TestModel

from snapstore import SnapshotDecodeError, StorageError, snapshot_id_at
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
        assert len(objects.objects) == len(before) - dry.batches
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
