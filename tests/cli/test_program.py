"""The command line as a program of its own: in a pipe, in a terminal, and interrupted."""

import asyncio
import json
import shlex
import sys

import pytest

from histories import location_of, write_history
from programs import environment_of, in_a_terminal, snapstore
from snapstore import FileStorage, Snapshot

LOCATION = location_of("chat-1")


async def test_it_works_on_a_real_server_and_a_directory(here):
    await write_history(here.storage, LOCATION, range(3))
    ended = await snapstore("ls", here.name, "--json", environment=here.environment)
    assert (ended.status, ended.err) == (0, "")
    assert json.loads(ended.out)["session_id"] == "chat-1"


async def test_a_reader_that_leaves_early_is_no_traceback(tmp_path):
    async with FileStorage(tmp_path) as storage:
        for number in range(300):
            await write_history(storage, location_of(f"chat-{number:03}"), [1])
    command = shlex.join([sys.executable, "-m", "snapstore.cli", "ls", str(tmp_path)])
    process = await asyncio.create_subprocess_shell(
        f"{command} --json --limit 1000 | true; echo ${{PIPESTATUS[0]}}",
        executable="/bin/bash",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment_of(),
    )
    out, err = await process.communicate()
    assert (out.strip(), err) in {(b"0", b""), (b"1", b"")}


async def test_a_terminal_shows_a_table_and_asks_before_it_changes_something(here):
    ids = await write_history(here.storage, LOCATION, range(5))
    await here.storage.rewind(location=LOCATION, snapshot_id=ids[-1])
    async with in_a_terminal("ls", here.name, environment=here.environment) as terminal:
        assert await terminal.ended() == 0
        assert "\t" not in terminal.shown
        assert [line.split()[0] for line in terminal.shown.splitlines()] == ["session", "chat-1"]

    prune = ("prune", here.name, "--keep-last", "2")
    async with in_a_terminal(*prune, environment=here.environment) as terminal:
        await terminal.until("Do it? [y/N]: ")
        assert "3 snapshots to be deleted" in terminal.shown
        terminal.type("n\r")
        assert await terminal.ended() == 1
        assert "nothing was changed" in terminal.shown
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids

    async with in_a_terminal(*prune, environment=here.environment) as terminal:
        await terminal.until("Do it? [y/N]: ")
        terminal.type("\x03")
        assert await terminal.ended() == 130
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids

    async with in_a_terminal(*prune, environment=here.environment) as terminal:
        await terminal.until("Do it? [y/N]: ")
        terminal.type("y\r")
        assert await terminal.ended() == 0
        assert "3 done" in terminal.shown
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids[-2:]

    rewind = ("rewind", here.name, "chat-1", "agent/weather", ids[-2])
    async with in_a_terminal(*rewind, environment=here.environment) as terminal:
        await terminal.until("[y/N]: ")
        # Meanwhile somebody saves: what was agreed to is no longer so.
        await here.storage.save_snapshot(
            location=LOCATION, snapshot=Snapshot.new({"turn": "new"}), is_latest=True
        )
        terminal.type("y\r")
        assert await terminal.ended() == 1
        assert "another writer came first" in terminal.shown
    assert (await here.storage.load_snapshot(location=LOCATION)).data == {"turn": "new"}


async def test_results_get_to_a_file_while_progress_is_shown(tmp_path):
    place, results = tmp_path / "here", tmp_path / "results"
    async with FileStorage(place) as storage:
        await write_history(storage, LOCATION, range(5))
    with results.open("wb") as file:
        prune = ("prune", place, "--keep-last", "2", "--dry-run")
        async with in_a_terminal(*prune, stdout=file) as terminal:
            assert await terminal.ended() == 0
    assert [line.split("\t")[0] for line in results.read_text().splitlines()] == ["planned"] * 3
    assert "immutable_history" not in terminal.shown


async def test_progress_is_shown_and_an_interrupt_in_the_middle_ends_it(tmp_path):
    async with FileStorage(tmp_path) as storage:
        sessions = [f"chat-{number}" for number in range(40)]
        for session_id in sessions:
            await write_history(storage, location_of(session_id), range(100))

    slowly = ("--yes", "--max-requests-per-second", "30")
    async with in_a_terminal("prune", tmp_path, "--keep-last", "1", *slowly) as terminal:
        await terminal.until("deleting: 1,000 snapshots")
        terminal.type("\x03")
        assert await terminal.ended() == 130
        assert terminal.shown.rstrip().endswith("snapstore prune: interrupted")
        assert "Traceback" not in terminal.shown

    async with FileStorage(tmp_path) as storage:
        left = [
            len(await storage.list_snapshot_ids(location=location_of(session_id)))
            for session_id in sessions
        ]
        assert 1_000 <= 4_000 - sum(left) < 3_960
        assert min(left) >= 1
        ended = await snapstore("prune", tmp_path, "--keep-last", "1", "--yes")
        assert ended.status == 0
        assert (
            sorted(
                [
                    len(await storage.list_snapshot_ids(location=location_of(one)))
                    for one in sessions
                ]
            )
            == [1] * 40
        )


@pytest.mark.parametrize("missing", ["click", "rich"])
async def test_without_its_libraries_it_names_the_extra(missing):
    script = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "from snapstore.cli import main\n"
        "sys.exit(main(['ls', '.']))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), stderr=asyncio.subprocess.PIPE, env=environment_of()
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert err.decode().count("\n") == 1
    assert "pip install 'snapstore[cli]'" in err.decode()
