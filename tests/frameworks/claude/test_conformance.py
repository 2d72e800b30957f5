"""The suite that the SDK publishes for session stores."""

import itertools
import subprocess
import sys

import pytest
import trio
from claude_agent_sdk import SessionStore
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
    "method", ["list_sessions", "list_session_summaries", "delete", "list_subkeys"]
)
def test_the_sdk_finds_every_optional_method(method):
    assert getattr(SnapstoreSessionStore, method) is not getattr(SessionStore, method)


def test_without_the_sdk_the_error_names_the_extra():
    program = (
        "import sys; sys.modules['claude_agent_sdk'] = None\n"
        "try: import snapstore.integrations.claude\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert "pip install 'snapstore[claude]'" in printed.stdout
