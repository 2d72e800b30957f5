"""What an agent has stashed is found by the other SDK, and nobody is told that it is out of reach.

The SDK for TypeScript keeps stash in a session since 1.17, and with `contextManager: 'auto'` since
1.18; one before leaves it out when it saves.
"""

import json
import logging

import pytest

OTHER = {"python": "typescript", "typescript": "python"}
RESULT = {"rain": True, "mm": 3.5, "until": None}


def agent(*script, stash):
    return [{"id": "weather", "script": list(script), "stash": stash}]


def calls_weather():
    use = {"name": "weather", "toolUseId": "t-0", "input": {}}
    return {"content": [{"toolUse": use}]}


def says(text):
    return {"content": [{"text": text}]}


@pytest.fixture
def keeps_stash(typescript_version):
    return typescript_version >= (1, 18)


@pytest.fixture
def warnings(caplog):
    """A function that gives the warnings of Python's SDK since the last call."""

    def read():
        said = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return said

    with caplog.at_level(logging.WARNING, "strands"):
        yield read


async def stash_in(stored):
    return json.loads(await stored.read("agent/weather"))["data"].get("stash")


async def test_stash_in_the_bucket_is_known_by_one_name(session, stored, keeps_stash, warnings):
    begin = calls_weather(), says("It rains.")
    await session.python(agents=agent(*begin, stash="durable"), input="Rain?")
    assert await stash_in(stored) == {"location": "external", "storageType": "S3Storage"}

    there = await session.typescript(agents=agent(says("Still."), stash="durable"), input="Now?")
    assert there.warnings == []
    expected = {"location": "external", "storageType": "S3Storage"} if keeps_stash else None
    assert await stash_in(stored) == expected

    await session.python(agents=agent(says("Yes."), stash="durable"), input="Really?")
    assert warnings() == []


async def test_stash_that_typescript_began_is_found_by_python(
    session, stored, keeps_stash, warnings
):
    begin = calls_weather(), says("It rains.")
    await session.typescript(agents=agent(*begin, stash="durable"), input="Rain?")
    expected = {"location": "external", "storageType": "S3Storage"} if keeps_stash else None
    assert await stash_in(stored) == expected

    session.dialect = "python"
    await session.python(agents=agent(says("Still."), stash="durable"), input="Now?")

    assert warnings() == []
    assert await stash_in(stored) == {"location": "external", "storage_type": "S3Storage"}


@pytest.mark.parametrize("begins", OTHER)
async def test_stash_in_the_snapshot_goes_there_and_back(session, stored, begins, keeps_stash):
    here = session.python if begins == "python" else session.typescript
    there = session.typescript if begins == "python" else session.python
    await here(agents=agent(calls_weather(), says("It rains."), stash="kept"), input="Rain?")
    stash = await stash_in(stored)
    if begins == "typescript" and not keeps_stash:
        assert stash is None
        return
    assert stash["location"] == "inline"
    assert stash["entries"]["t-0_0"] == {"json": RESULT}

    await there(agents=agent(says("Still."), stash="kept"), input="Now?")
    if keeps_stash:
        assert (await stash_in(stored))["entries"].items() > stash["entries"].items()
        await here(agents=agent(says("Yes."), stash="kept"), input="Really?")
        assert (await stash_in(stored))["entries"].items() > stash["entries"].items()
    else:
        assert await stash_in(stored) is None
