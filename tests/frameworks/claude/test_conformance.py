"""The suite that the SDK publishes for session stores."""

import itertools

import pytest
import trio
from claude_agent_sdk.testing import run_session_store_conformance

from snapstore.integrations.claude import SnapstoreSessionStore
from snapstore.stores import MemoryObjectStore


async def test_every_contract_of_the_sdk_holds(open_store, prefix):
    numbers = itertools.count()
    await run_session_store_conformance(lambda: open_store(prefix=f"{prefix}/{next(numbers)}"))
    assert next(numbers) == 15, "a contract was left out"


def test_every_contract_holds_in_trio():
    made = []

    def make():
        made.append(SnapstoreSessionStore(MemoryObjectStore()))
        return made[-1]

    trio.run(run_session_store_conformance, make)
    assert len(made) == 15
    for store in made:
        store.close()


@pytest.mark.parametrize(
    "method", ["append", "load", "list_sessions", "list_session_summaries", "delete"]
)
def test_the_sdk_finds_every_optional_method(method):
    assert callable(getattr(SnapstoreSessionStore, method))
