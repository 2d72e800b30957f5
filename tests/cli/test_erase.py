"""`erase` and `erase-all`: the receipt, also after a failure, and the stash beside sessions."""

import asyncio
import json
import shlex
import sys

import pytest

from histories import document, id_days_ago, location_of, write_history
from programs import environment_of, in_a_terminal
from snapstore import FileStorage
from snapstore.model.keys import Layout

LOCATION = location_of("chat-1")


async def test_a_receipt_that_can_not_be_written_is_found_before_anything_is_erased(
    here, snapstore, tmp_path
):
    ids = await write_history(here.storage, LOCATION, range(3))
    (tmp_path / "directory").mkdir()
    for receipt, status in ((tmp_path / "missing" / "x", 1), (tmp_path / "directory", 2)):
        ended = await snapstore(
            *("erase", here.name, "chat-1", "--yes", "--receipt", receipt),
            environment=here.environment,
        )
        assert (ended.status, ended.out) == (status, "")
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids


@pytest.fixture
async def long_history(tmp_path):
    """A directory with a session whose erasure takes some events, and the path of a receipt."""
    async with FileStorage(tmp_path / "here") as storage:
        await write_history(storage, LOCATION, range(1_100))
    return tmp_path / "here", tmp_path / "receipt.json"


async def test_a_receipt_of_an_earlier_run_is_kept_until_there_is_another(here, tmp_path):
    await write_history(here.storage, LOCATION, range(3))
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("x" * 10_000)
    for receipt in (old, new):
        erase = ("erase", here.name, "chat-1", "--receipt", receipt)
        async with in_a_terminal(*erase, environment=here.environment) as terminal:
            await terminal.until("[y/N]: ")
            terminal.type("n\r")
            assert await terminal.ended() == 1
    assert (len(old.read_text()), new.exists()) == (10_000, False)
    erase = ("erase", here.name, "chat-1", "--receipt", old)
    async with in_a_terminal(*erase, environment=here.environment) as terminal:
        await terminal.until("[y/N]: ")
        terminal.type("y\r")
        assert await terminal.ended() == 0
    assert json.loads(old.read_text())["nothing_left"] is True


async def test_an_erasure_that_was_interrupted_has_a_receipt(long_history):
    place, receipt = long_history
    slowly = ("--yes", "--max-requests-per-second", "1")
    async with in_a_terminal("erase", place, "chat-1", *slowly, "--receipt", receipt) as terminal:
        await terminal.until("snapshot_")
        terminal.type("\x03")
        assert await terminal.ended() == 130
    written = json.loads(receipt.read_text())
    assert (written["finished_at"], written["nothing_left"]) == (None, None)
    assert 0 < written["objects"] < 1_100


async def test_an_erasure_whose_reader_has_left_has_a_receipt(long_history):
    place, receipt = long_history
    command = shlex.join(
        [sys.executable, "-m", "snapstore.cli", "erase", str(place), "chat-1", "--yes"]
    )
    process = await asyncio.create_subprocess_shell(
        f"{command} --receipt {shlex.quote(str(receipt))} | true; exit ${{PIPESTATUS[0]}}",
        executable="/bin/bash",
        stderr=asyncio.subprocess.PIPE,
        env=environment_of(),
    )
    _, err = await process.communicate()
    assert (process.returncode, b"Traceback" in err) == (1, False)
    written = json.loads(receipt.read_text())
    assert (written["finished_at"], written["nothing_left"]) == (None, None)
    assert 0 < written["objects"] < 1_100


async def test_a_dry_run_has_no_receipt(here, snapstore, tmp_path):
    await write_history(here.storage, LOCATION, range(3))
    receipt = tmp_path / "receipt.json"
    ended = await snapstore(
        *("erase", here.name, "chat-1", "--dry-run", "--receipt", receipt),
        environment=here.environment,
    )
    assert (ended.status, receipt.exists()) == (0, False)


@pytest.fixture
async def stashed(here):
    """A place that ends with `session`, with the stash of the SDKs beside it."""
    root = here.storage.layout.sessions_prefix
    objects, layout = here.storage.objects, Layout(f"{root}session")
    for snapshot_id in map(id_days_ago, (1, 0)):
        await objects.put(layout.history(LOCATION, snapshot_id), document(1))
    await objects.put(layout.latest(LOCATION), document(1))
    stash = f"{layout.stash_prefix('chat-1')}text"
    assert stash == f"{root}context/chat-1/text"
    await objects.put(stash, b"offloaded")
    return objects, stash, f"{here.name.rstrip('/')}/session", here.environment


async def test_the_stash_beside_a_place_named_session_goes_with_its_sessions(
    stashed, snapstore, tmp_path
):
    objects, stash, name, environment = stashed
    du = await snapstore("du", name, "chat-1", environment=environment)
    assert "stash: 1 object, 9 bytes" in du.err
    backup = tmp_path / "backup" / "session"
    copied = await snapstore("copy", name, backup, "--yes", environment=environment)
    assert copied.err.startswith("4 objects copied")
    assert (tmp_path / "backup" / "context" / "chat-1" / "text").read_bytes() == b"offloaded"
    forked = await snapstore("fork", name, "chat-1", "chat-2", "--yes", environment=environment)
    assert forked.err.startswith("4 objects copied")
    erased = await snapstore("erase", name, "chat-1", "--yes", environment=environment)
    assert (erased.status, erased.out.count(stash)) == (0, 1), erased.err
    assert await objects.get(stash, max_bytes=100) is None


async def test_a_relative_place_named_session_is_the_same(tmp_path, snapstore, monkeypatch):
    async with FileStorage(tmp_path, prefix="session") as storage:
        await write_history(storage, LOCATION, range(2))
        await storage.objects.put("context/chat-1/text", b"offloaded")
    (tmp_path / "link").symlink_to("session")
    monkeypatch.chdir(tmp_path / "session")
    for place in (".", "./", "../session", "../session/", "../link"):
        du = await snapstore("du", place, "chat-1")
        assert "stash: 1 object" in du.err
    monkeypatch.chdir(tmp_path)
    assert "stash: 1 object" in (await snapstore("du", "session", "chat-1")).err


@pytest.mark.parametrize("name", ["user-7", "session"])
async def test_a_directory_is_not_removed_by_erase_all(tmp_path, snapstore, name):
    async with FileStorage(tmp_path / name) as storage:
        ids = await write_history(storage, LOCATION, range(2))
        for option in ("--yes", "--dry-run"):
            ended = await snapstore("erase-all", tmp_path / name, option)
            assert (ended.status, ended.out) == (2, "")
            assert "a directory is removed with rm -r" in ended.err
        assert await storage.list_snapshot_ids(location=LOCATION) == ids
