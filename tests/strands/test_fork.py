"""A fork goes on in both SDKs, and finds what the session before it has stashed."""

import pytest

from snapstore import S3Storage, SnapshotLocation
from snapstore.operations import fork_session


def agent(*script):
    return [{"id": "weather", "script": list(script), "stash": "durable"}]


def uses(name, use_id, **arguments):
    use = {"name": name, "toolUseId": use_id, "input": arguments}
    return {"content": [{"toolUse": use}]}


def says(text):
    return {"content": [{"text": text}]}


@pytest.fixture
def fork(s3_server, bucket, prefix):
    """A function that forks the session up to its first snapshot, or all of it."""

    async def make(into, *, all_of_it):
        async with S3Storage(
            bucket, prefix=f"{prefix}/session", **s3_server.storage_options
        ) as storage:
            location = SnapshotLocation.agent("session-1", "weather")
            ids = await storage.list_snapshot_ids(location=location)
            report = await fork_session(
                storage, session_id="session-1", into=into, upto=None if all_of_it else ids[0]
            ).run()
            assert report.ok

    return make


@pytest.mark.parametrize("goes_on", ["python", "typescript"])
@pytest.mark.parametrize("begins", ["python", "typescript"])
@pytest.mark.parametrize("all_of_it", [True, False])
async def test_a_fork_goes_on(session, fork, typescript_version, begins, goes_on, all_of_it):
    begin = uses("weather", "t-0"), says("It rains.")
    await getattr(session, begins)(agents=agent(*begin), input="Rain?", save="history")
    await getattr(session, begins)(agents=agent(says("Still.")), input="And now?")
    before = await getattr(session, begins)(agents=agent())

    await fork("session-2", all_of_it=all_of_it)

    session.id = "session-2"
    told = uses("retrieve_context", "t-1", reference="t-0_0"), says("It was rain.")
    forked = await getattr(session, goes_on)(agents=agent(*told), input="What was it?")
    assert "It rains." in str(forked.asked["weather"][0])
    assert ("Still." in str(forked.asked["weather"][0])) is all_of_it
    if typescript_version >= (1, 18):
        assert "mm" in str(forked.messages[-2])
        assert "3.5" in str(forked.messages[-2])
    again = await getattr(session, goes_on)(agents=agent())
    assert "It was rain." in str(again.messages[-1])

    session.id = "session-1"
    assert (await getattr(session, begins)(agents=agent())).messages == before.messages
