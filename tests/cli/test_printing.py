"""What commands print never commands the terminal, and an output that is full is no traceback."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from histories import location_of, write_history
from programs import environment_of, in_a_terminal
from snapstore import FileStorage

LOCATION = location_of("chat-1")
ESCAPES = "\x1b[2J\x9b31m\u202e\tx\nerased\tobject"
"""Clears the screen, colours, turns the writing around, and forges a field and a line."""
UNSAFE = {"\x1b", "\x9b", "\u202e"}
COMMANDS = {
    "verify": ("verify", "PLACE"),
    "erase": ("erase", "PLACE", "chat-1", "--dry-run"),
    "erase for good": ("erase", "PLACE", "chat-1", "--yes"),
    "redact": ("redact", "PLACE", "chat-1", "--texts", "texts", "--dry-run"),
    "copy": ("copy", "PLACE", "backup", "--dry-run"),
    "copy for good": ("copy", "PLACE", "backup", "--yes"),
    "fork": ("fork", "PLACE", "chat-1", "chat-2", "--dry-run"),
}


@pytest.fixture
async def hostile(request, here, tmp_path, monkeypatch):
    """A session with a foreign object and a stash whose names have sequences for a terminal."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").write_text("secret\n")
    await write_history(here.storage, LOCATION, [1])
    for prefix in (
        here.storage.layout.session_prefix("chat-1"),
        here.storage.layout.stash_prefix("chat-1"),
    ):
        name = ESCAPES
        if here.name.startswith("s3:"):
            # Listings of versions have no escape characters: XML can't carry them.
            name = name.replace("\x1b", "")
            if request.config.getoption("--s3-server") == "moto":
                name = name.replace("\n", "")  # it takes no line break in a key
        await here.storage.objects.put(f"{prefix}{name}", b"secret")
    return here, name


@pytest.mark.parametrize("command", COMMANDS)
async def test_names_of_objects_can_not_command_the_terminal(hostile, snapstore, command):
    here, name = hostile
    arguments = [here.name if one == "PLACE" else one for one in COMMANDS[command]]
    ended = await snapstore(*arguments, environment=here.environment)
    assert ended.status == (1 if command == "verify" else 0), ended.err
    assert ascii(name)[1:-1] in ended.out
    assert not set(ended.out + ended.err) & UNSAFE
    starts = {"verify": ("foreign object", "latest missing")}.get(
        command, ("planned\t", "erased\t", "copied\t")
    )
    assert all(line.startswith(starts) for line in ended.out.splitlines())


async def test_lines_of_json_are_the_same_object_and_can_not_command_it_either(hostile, snapstore):
    here, name = hostile
    arguments = ("erase", here.name, "chat-1", "--dry-run", "--json")
    ended = await snapstore(*arguments, environment=here.environment)
    assert not set(ended.out) & UNSAFE
    keys = [json.loads(line)["key"] for line in ended.out.splitlines()]
    assert sum(key.endswith(name) for key in keys) == 2


async def test_a_file_whose_name_is_no_utf8_is_told(tmp_path, snapstore):
    async with FileStorage(tmp_path / "here") as storage:
        await write_history(storage, LOCATION, [1])
    (tmp_path / "here" / "chat-1" / os.fsdecode(b"\xff")).touch()
    for more in ((), ("--json",)):
        ended = await snapstore("verify", tmp_path / "here", *more)
        assert (ended.status, "udcff" in ended.out) == (1, True), ended.err
        for what in (("erase", "chat-1", "--dry-run"), ("copy", tmp_path / "there", "--dry-run")):
            ended = await snapstore(what[0], tmp_path / "here", *what[1:], *more)
            assert (ended.status, "udcff" in ended.out) == (0, True), ended.err


async def test_a_file_whose_name_is_no_utf8_is_copied_after_a_question(tmp_path):
    async with FileStorage(tmp_path / "here") as storage:
        await write_history(storage, LOCATION, [1])
    name = os.fsdecode(b"\xff")
    (tmp_path / "here" / "chat-1" / name).write_text("x")
    async with in_a_terminal("copy", tmp_path / "here", tmp_path / "there") as terminal:
        await terminal.until("Do it? [y/N]: ")
        terminal.type("y\r")
        assert await terminal.ended() == 0
    assert (tmp_path / "there" / "chat-1" / name).read_text() == "x"


async def test_a_place_can_not_command_the_terminal(tmp_path, snapstore):
    ended = await snapstore("ls", tmp_path / "no\x1b]0;title\x07where")
    assert ended.status == 2
    assert r"no\x1b]0;title\x07where" in ended.err


async def test_a_document_is_exact_in_a_pipe_and_harmless_on_a_terminal(here, snapstore):
    document = (
        '{"scope":"agent","schemaVersion":"1.0","createdAt":"2026-11-21T09:30:00.000Z",\r'
        '"data":{"messages":[],"state":{"x":"\x9b2J\u202e"}},"appData":{}}'
    ).encode()
    await here.storage.objects.put(here.storage.layout.latest(LOCATION), document)
    show = ("show", here.name, "chat-1", "agent/weather", "--json")
    ended = await snapstore(*show, environment=here.environment)
    assert ended.out.encode().rstrip(b"\n") == document
    async with in_a_terminal(*show, environment=here.environment) as terminal:
        assert await terminal.ended() == 0
    shown = terminal.shown.strip()
    assert not set(shown) & {*UNSAFE, "\r"}
    assert json.loads(shown) == json.loads(document)


@pytest.mark.parametrize("command", ["ls", "show", "diff", "export", "prune", "check", "erase"])
async def test_an_output_that_is_full_is_one_line(tmp_path, command):
    async with FileStorage(tmp_path) as storage:
        ids = await write_history(storage, LOCATION, range(3))
        await storage.rewind(location=LOCATION, snapshot_id=ids[0])
    arguments = {
        "show": ("chat-1",),
        "diff": ("chat-1", "agent/weather", ids[1]),
        "export": ("chat-1", "-"),
        "prune": ("--keep-last", "1", "--dry-run", "--json"),
        "erase": ("chat-1", "--dry-run"),
    }.get(command, ())
    with Path("/dev/full").open("wb") as full:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "snapstore.cli", command, tmp_path, *arguments),
            stdout=full,
            stderr=asyncio.subprocess.PIPE,
            env=environment_of({"PYTHONUNBUFFERED": ""}),  # what is printed waits in a buffer
        )
        _, err = await process.communicate()
    lines = [line for line in err.decode().splitlines() if "to be" not in line]
    assert process.returncode == 1, err
    assert len(lines) == 1
    assert "No space left on device" in lines[0]
