"""Agents of the SDK, run by its own program on a model that is on this machine."""

import itertools

import pytest
from claude_agent_sdk import (
    AgentDefinition,
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    MirrorErrorMessage,
    ResultMessage,
    delete_session_via_store,
    fork_session_via_store,
    get_session_messages_from_store,
    get_subagent_messages_from_store,
    list_sessions_from_store,
    list_subagents_from_store,
    project_key_for_directory,
    query,
    rename_session_via_store,
    tag_session_via_store,
)

from claude_model import DELEGATE, TASK, running_model
from snapstore.integrations.claude import SnapstoreSessionStore
from snapstore.testing import FaultyObjectStore, StoreFault

ANSWER = "{} messages."


@pytest.fixture
def make_options(tmp_path, unused_directories):
    """Makes the options of a machine that has no transcripts of its own."""
    with running_model(tmp_path) as environment:
        (tmp_path / "project").mkdir()

        def make_options(store, **options):
            return ClaudeAgentOptions(
                session_store=store,
                cwd=tmp_path / "project",
                env={**environment, "CLAUDE_CONFIG_DIR": str(next(unused_directories))},
                agents={"weather": AgentDefinition(description="Weather", prompt="You know it.")},
                **options,
            )

        yield make_options


@pytest.fixture
def unused_directories(tmp_path):
    return (tmp_path / f"machine-{number}" for number in itertools.count())


async def answers(messages):
    """The texts of an agent, and the id of its session."""
    texts, session_id, failures = [], None, []
    async for message in messages:
        if isinstance(message, AssistantMessage) and message.parent_tool_use_id is None:
            texts += [block.text for block in message.content if hasattr(block, "text")]
        elif isinstance(message, MirrorErrorMessage):
            failures.append(message)
        elif isinstance(message, ResultMessage):
            session_id = message.session_id
            assert not message.is_error, message
    return texts, session_id, failures


@pytest.mark.parametrize("flush", ["batched", "eager"])
async def test_a_session_is_resumed_on_another_machine(open_store, make_options, flush):
    here, there = await open_store(), await open_store()
    options = make_options(here, session_store_flush=flush)
    texts, session_id, failures = await answers(query(prompt="Hello!", options=options))
    assert (texts, failures) == ([ANSWER.format(2)], [])

    options = make_options(there, resume=session_id, session_store_flush=flush)
    texts, resumed, failures = await answers(query(prompt="And now?", options=options))
    assert (texts, resumed, failures) == ([ANSWER.format(4)], session_id, [])

    directory = str(options.cwd)
    project = project_key_for_directory(directory)
    await here.compact({"project_key": project, "session_id": session_id}, grace=0)
    options = make_options(here, continue_conversation=True)
    texts, resumed, failures = await answers(query(prompt="And then?", options=options))
    assert (texts, resumed, failures) == ([ANSWER.format(6)], session_id, [])

    [session] = await list_sessions_from_store(there, directory=directory)
    assert session.session_id == session_id
    assert session.first_prompt == "Hello!"
    messages = await get_session_messages_from_store(there, session_id, directory=directory)
    assert [message.type for message in messages] == ["user", "assistant"] * 3


async def test_a_client_with_a_subagent_resumes_with_it(open_store, make_options):
    store = await open_store()
    options = make_options(store)
    async with ClaudeSDKClient(options) as client:
        await client.query(DELEGATE)
        _texts, session_id, failures = await answers(client.receive_response())
    assert failures == []
    directory = str(options.cwd)
    [agent_id] = await list_subagents_from_store(store, session_id, directory=directory)
    messages = await get_subagent_messages_from_store(
        store, session_id, agent_id, directory=directory
    )
    assert messages[0].message["content"] == TASK
    project = project_key_for_directory(directory)
    [subpath] = await store.list_subkeys({"project_key": project, "session_id": session_id})
    assert subpath == f"subagents/agent-{agent_id}"

    other = await open_store()
    options = make_options(other, resume=session_id)
    texts, resumed, failures = await answers(query(prompt="And now?", options=options))
    assert (resumed, failures) == (session_id, [])
    assert texts[-1] == ANSWER.format(6)


async def test_sessions_are_renamed_tagged_forked_and_deleted(open_store, make_options):
    store = await open_store()
    options = make_options(store)
    directory = str(options.cwd)
    _texts, session_id, _ = await answers(query(prompt="Hello!", options=options))
    await rename_session_via_store(store, session_id, "A title", directory=directory)
    await tag_session_via_store(store, session_id, "a-tag", directory=directory)
    forked = await fork_session_via_store(store, session_id, directory=directory)
    sessions = await list_sessions_from_store(await open_store(), directory=directory)
    found = {session.session_id: session for session in sessions}
    assert found[session_id].custom_title == "A title"
    assert found[session_id].tag == "a-tag"
    await delete_session_via_store(store, session_id, directory=directory)
    [left] = await list_sessions_from_store(store, directory=directory)
    assert left.session_id == forked.session_id


async def test_a_store_that_fails_is_reported_and_does_not_stop_the_agent(memory, make_options):
    async def fail(call):
        return StoreFault() if call.operation == "put" else None

    async with SnapstoreSessionStore(FaultyObjectStore(memory, fail)) as store:
        options = make_options(store)
        texts, _session_id, failures = await answers(query(prompt="Hello!", options=options))
    assert texts == [ANSWER.format(2)]
    assert failures
    assert "did not reach the store" in failures[0].error
