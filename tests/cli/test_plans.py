"""Named sessions that are not there, plans that are wrong, and sessions that wake up."""

import pytest

from histories import id_days_ago, location_of, write_history
from programs import in_a_terminal
from programs import snapstore as program
from snapstore import FileStorage, Snapshot
from snapstore.operations import DeleteEvent, SessionEvent, encode_event

LOCATION = location_of("chat-1")


async def write_chat(storage, session_id, days=range(5)):
    ids = await write_history(storage, location_of(session_id), days)
    await storage.rewind(location=location_of(session_id), snapshot_id=ids[-1])
    return ids


@pytest.mark.parametrize("is_dry", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        ("prune", "--keep-last", "1", "--session"),
        ("prune-sessions", "--idle-for", "1d", "--session"),
        ("verify", "--session"),
        ("copy", "backup", "--session"),
        ("import-log", "backup", "--session"),
        ("redact", "--texts", "texts"),
        ("export",),
    ],
)
async def test_a_named_session_that_is_not_there_is_said(
    here, snapstore, tmp_path, monkeypatch, command, is_dry
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").write_text("secret\n")
    ids = await write_chat(here.storage, "chat-10")
    name, *options = command
    arguments = [name, here.name, *options, "chat-1"]
    if name == "redact":
        arguments = [name, here.name, "chat-1", *options]
    if name == "export":
        arguments = [*arguments, "chat.tar"]
    elif name != "verify":
        arguments.append("--dry-run" if is_dry else "--yes")
    ended = await snapstore(*arguments, environment=here.environment)
    assert ended.status == 1
    line = ended.err.splitlines()[-1]
    assert "no session chat-1" in line
    assert not line.endswith("chat-10")
    assert await here.storage.list_snapshot_ids(location=location_of("chat-10")) == ids
    assert not (tmp_path / "chat.tar").exists()


async def contents_of(storage):
    found = {}
    async for page in storage.objects.scan(storage.layout.sessions_prefix):
        for key in page:
            found[key] = (await storage.objects.get(key, max_bytes=2**20)).version
    return found


@pytest.mark.parametrize(
    "command",
    [
        ("prune", "HERE", "--keep-last", "1"),
        ("prune-sessions", "HERE", "--idle-for", "1s"),
        ("archive", "HERE", "--keep-last", "1"),
        ("unarchive", "HERE"),
        ("prune-archive", "HERE", "--keep-last", "1"),
        ("copy", "HERE", "backup"),
        ("import", "HERE", "chat.tar"),
        ("fork", "HERE", "chat-1", "chat-2"),
        ("redact", "HERE", "chat-1", "--texts", "texts"),
        ("erase", "HERE", "chat-1"),
        ("rewind", "HERE", "chat-1", "agent/weather", "OLDEST"),
    ],
)
async def test_a_dry_run_changes_nothing_with_yes_either(
    here, snapstore, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").write_text("turn\n")
    ids = await write_chat(here.storage, "chat-1")
    export = "export", here.name, "chat-1", "chat.tar"
    assert (await snapstore(*export, environment=here.environment)).status == 0
    if command[0] == "import":
        await here.storage.objects.delete([here.storage.layout.history(LOCATION, ids[0])])
    if command[0] in ("unarchive", "prune-archive"):
        packing = "archive", here.name, "--keep-last", "1", "--yes"
        assert (await snapstore(*packing, environment=here.environment)).status == 0
    before = await contents_of(here.storage)
    arguments = [{"HERE": here.name, "OLDEST": ids[0]}.get(part, part) for part in command]
    ended = await snapstore(*arguments, "--dry-run", "--yes", environment=here.environment)
    assert ended.status == 0, ended.err
    assert await contents_of(here.storage) == before
    assert not (tmp_path / "backup").exists()


async def test_a_session_that_is_there_is_found_beside_one_that_is_not(here, snapstore, tmp_path):
    await write_chat(here.storage, "chat-1")
    ended = await snapstore(
        *("copy", here.name, tmp_path / "backup", "--yes"),
        *("--session", "chat-1", "--session", "chat-2"),
        environment=here.environment,
    )
    assert ended.status == 1
    assert ended.err.endswith("there is no session chat-2\n")
    assert (tmp_path / "backup" / "chat-1").exists()


def wrong_lines():
    planned = {"result": "planned"}
    session = {"updated_at": None, "objects": 1, "size": 1, "fingerprint": "x"}
    history = "chat-1/scopes/agent/weather/snapshots/immutable_history"
    return {
        "copy": (b'{"type":"copy","session_id":"s","key":"k","result":"planned"}\n', "of a copy"),
        "done": (
            encode_event(
                DeleteEvent(key=f"{history}/snapshot_{id_days_ago(1)}.json", result="deleted")
            ),
            "not of a dry run",
        ),
        "foreign": (encode_event(DeleteEvent(key="elsewhere/x", **planned)), "not of this place"),
        "latest": (
            encode_event(
                DeleteEvent(
                    key="chat-1/scopes/agent/weather/snapshots/snapshot_latest.json", **planned
                )
            ),
            "not of this place",
        ),
        "id": (encode_event(SessionEvent(session_id="A/b", **planned, **session)), "session_id"),
        "text": (b"what\n", "is no event"),
    }


@pytest.mark.parametrize("through", ["file", "stdin"])
@pytest.mark.parametrize("kind", wrong_lines())
async def test_a_plan_is_validated_as_a_whole_before_anything_is_deleted(
    here, snapstore, tmp_path, kind, through
):
    ids = await write_chat(here.storage, "chat-1")
    dry = await snapstore(
        *("prune", here.name, "--keep-last", 1, "--dry-run", "--json"),
        environment=here.environment,
    )
    line, words = wrong_lines()[kind]
    plan = tmp_path / "plan.jsonl"
    plan.write_bytes(dry.out.encode() + line)
    assert dry.out.count("\n") == 4
    if through == "file":
        arguments = ("apply", here.name, plan, "--yes")
        ended = await snapstore(*arguments, environment=here.environment)
    else:
        arguments = ("apply", here.name, "-", "--yes")
        ended = await program(*arguments, environment=here.environment, stdin=plan.read_bytes())
    assert (ended.status, ended.out) == (2, "")
    assert words in ended.err
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids


async def test_a_plan_of_a_copy_is_validated_as_a_whole_as_well(here, snapstore, tmp_path):
    await write_chat(here.storage, "chat-1")
    dry = await snapstore(
        *("copy", here.name, tmp_path / "there", "--dry-run", "--json"),
        environment=here.environment,
    )
    plan = tmp_path / "plan.jsonl"
    foreign = b'{"type":"copy","session_id":"s-1","key":"elsewhere/x","result":"planned"}\n'
    delete, _ = wrong_lines()["done"]
    for line, words in (
        (foreign, "not of the source"),
        (delete, "of no copy"),
        (b"x", "is no event"),
    ):
        plan.write_bytes(dry.out.encode() + line)
        ended = await snapstore(
            *("copy", here.name, tmp_path / "there", "--plan", plan, "--yes"),
            environment=here.environment,
        )
        assert (ended.status, ended.out) == (2, "")
        assert words in ended.err
    assert not (tmp_path / "there").exists()


async def test_a_plan_comes_from_stdin(here, snapstore):
    ids = await write_chat(here.storage, "chat-1")
    dry = await snapstore(
        *("prune", here.name, "--keep-last", 1, "--dry-run", "--json"),
        environment=here.environment,
    )
    arguments = ("apply", here.name, "-")
    refused = await program(*arguments, environment=here.environment, stdin=dry.out.encode())
    assert (refused.status, "add --yes" in refused.err) == (2, True)
    ended = await program(*arguments, "--yes", environment=here.environment, stdin=dry.out.encode())
    assert (ended.status, ended.err) == (
        0,
        "4 done, 0 changed and left alone, 0 gone before, 0 failed\n",
    )
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids[-1:]


async def test_what_was_done_is_told_after_an_interrupt(tmp_path, snapstore):
    async with FileStorage(tmp_path / "here") as storage:
        await write_history(storage, LOCATION, range(1_100))
    dry = await snapstore("prune", tmp_path / "here", "--keep-last", 1, "--dry-run", "--json")
    plan = tmp_path / "plan.jsonl"
    plan.write_text(dry.out)
    slowly = ("--yes", "--max-requests-per-second", "1")
    async with in_a_terminal("apply", tmp_path / "here", plan, *slowly) as terminal:
        await terminal.until("snapshot_")
        terminal.type("\x03")
        assert await terminal.ended() == 130
    *_, summary, last = terminal.shown.rstrip().splitlines()
    assert last.endswith("snapstore apply: interrupted")
    assert summary.strip().endswith("0 changed and left alone, 0 gone before, 0 failed")
    assert not summary.strip().startswith("0 deleted")


async def test_a_session_that_wakes_up_while_it_is_asked_is_kept_and_no_failure(tmp_path):
    async with FileStorage(tmp_path) as storage:
        await write_history(storage, LOCATION, [400, 300])
        await write_history(storage, location_of("chat-2"), [400])
        prune = ("prune-sessions", tmp_path, "--idle-for", "30d", "--unconditional")
        async with in_a_terminal(*prune) as terminal:
            await terminal.until("Do it? [y/N]: ")
            await storage.checkpoint(location=LOCATION, snapshot=Snapshot.new({"turn": "new"}))
            terminal.type("y\r")
            assert await terminal.ended() == 0
        assert "1 kept since they woke up" in terminal.shown
        assert "0 changed and left alone" in terminal.shown
        assert [found async for found in storage.iter_sessions()] == ["chat-1"]


async def test_going_back_where_there_was_no_latest_replaces_none(here):
    ids = await write_history(here.storage, LOCATION, range(2))
    rewind = ("rewind", here.name, "chat-1", "agent/weather", ids[0])
    async with in_a_terminal(*rewind, environment=here.environment) as terminal:
        await terminal.until("[y/N]: ")
        assert "the latest snapshot (none)" in terminal.shown
        await here.storage.save_snapshot(
            location=LOCATION, snapshot=Snapshot.new({"turn": "new"}), is_latest=True
        )
        terminal.type("y\r")
        assert await terminal.ended() == 1
        assert "another writer came first" in terminal.shown
    assert (await here.storage.load_snapshot(location=LOCATION)).data == {"turn": "new"}


async def test_going_back_mends_a_damaged_latest_and_replaces_nothing_else(here, snapstore):
    ids = await write_history(here.storage, LOCATION, range(2))
    latest = here.storage.layout.latest(LOCATION)
    await here.storage.objects.put(latest, b"broken")
    rewind = ("rewind", here.name, "chat-1", "agent/weather", ids[0])
    async with in_a_terminal(*rewind, environment=here.environment) as terminal:
        await terminal.until("[y/N]: ")
        assert "the latest snapshot (damaged)" in terminal.shown
        await here.storage.save_snapshot(
            location=LOCATION, snapshot=Snapshot.new({"turn": "new"}), is_latest=True
        )
        terminal.type("y\r")
        assert await terminal.ended() == 1
    assert (await here.storage.load_snapshot(location=LOCATION)).data == {"turn": "new"}
    await here.storage.objects.put(latest, b"broken")
    ended = await snapstore(*rewind, "--yes", environment=here.environment)
    assert ended.status == 0, ended.err
    restored = await here.storage.load_snapshot(location=LOCATION)
    assert restored == await here.storage.load_snapshot(location=LOCATION, snapshot_id=ids[0])
