"""`copy`, `export`, `import`, `import-log`, `fork`, `verify` and `redact` as commands."""

import json
import uuid

import pytest

from histories import location_of, write_history
from programs import in_a_terminal
from programs import snapstore as program
from snapstore import FileStorage, S3Storage, Snapshot
from snapstore.testing.server import create_bucket

LOCATION = location_of("chat-1")
CANARY = "canary-9341"


async def write_chat(storage, session_id="chat-1"):
    ids = await write_history(storage, location_of(session_id), range(3))
    await storage.rewind(location=location_of(session_id), snapshot_id=ids[-1])
    await storage.objects.put(f"{storage.layout.stash_prefix(session_id)}text", b"offloaded")
    return ids


def lines(ended):
    return [json.loads(line) for line in ended.out.splitlines()]


async def test_sessions_are_copied_and_copied_again(here, snapstore, tmp_path):
    ids = await write_chat(here.storage)
    await write_chat(here.storage, "chat-2")
    backup = tmp_path / "backup"
    arguments = ("copy", here.name, backup, "--session", "chat-1")
    assert (await snapstore(*arguments, environment=here.environment)).status == 2
    dry = await snapstore(*arguments, "--dry-run", "--json", environment=here.environment)
    assert (dry.status, len(lines(dry))) == (0, 5)
    assert not backup.exists()
    ended = await snapstore(*arguments, "--yes", environment=here.environment)
    assert ended.status == 0, ended.err
    assert ended.err.startswith("5 objects copied, 0 replaced")
    async with FileStorage(backup) as copied:
        assert await copied.list_snapshot_ids(location=LOCATION) == ids
        assert [found async for found in copied.iter_sessions()] == ["chat-1"]
    again = await snapstore("copy", here.name, backup, "--yes", environment=here.environment)
    assert again.err.startswith("5 objects copied, 0 replaced")
    assert ", 5 equal," in again.err


async def test_a_conflict_is_exit_status_1_and_overwrite_replaces(here, snapstore, tmp_path):
    ids = await write_chat(here.storage)
    backup = tmp_path / "backup"
    await snapstore("copy", here.name, backup, "--yes", environment=here.environment)
    await here.storage.rewind(location=LOCATION, snapshot_id=ids[0])
    ended = await snapstore("copy", here.name, backup, "--yes", environment=here.environment)
    assert ended.status == 1
    assert "conflict\t" in ended.out
    ended = await snapstore(
        *("copy", here.name, backup, "--yes", "--overwrite"), environment=here.environment
    )
    assert ended.status == 0
    assert ended.out.startswith("replaced\t")


async def test_a_plan_is_copied_and_no_more(here, snapstore, tmp_path):
    await write_chat(here.storage)
    backup, plan = tmp_path / "backup", tmp_path / "plan.jsonl"
    dry = await snapstore(
        *("copy", here.name, backup, "--dry-run", "--json"), environment=here.environment
    )
    plan.write_text(dry.out)
    await write_chat(here.storage, "chat-2")
    ended = await snapstore(
        *("copy", here.name, backup, "--plan", plan, "--yes"), environment=here.environment
    )
    assert ended.status == 0, ended.err
    async with FileStorage(backup) as copied:
        assert [found async for found in copied.iter_sessions()] == ["chat-1"]
    wrong = await snapstore("apply", here.name, plan, "--yes", environment=here.environment)
    assert (wrong.status, "copy --plan" in wrong.err) == (2, True)
    both = await snapstore(
        *("copy", here.name, backup, "--plan", plan, "--verify", "--yes"),
        environment=here.environment,
    )
    assert both.status == 2


@pytest.mark.parametrize("name", ["chat.tar", "chat.tar.zst"])
async def test_a_session_is_exported_and_imported_under_another_id(here, snapstore, tmp_path, name):
    ids = await write_chat(here.storage)
    file = tmp_path / name
    ended = await snapstore("export", here.name, "chat-1", file, environment=here.environment)
    assert ended.status == 0, ended.err
    assert (
        await snapstore("export", here.name, "chat-1", file, environment=here.environment)
    ).status == 2
    arguments = ("import", here.name, file, "--as", "restored")
    dry = await snapstore(*arguments, "--dry-run", environment=here.environment)
    assert (dry.status, len(dry.out.splitlines())) == (0, 5)
    ended = await snapstore(*arguments, "--yes", environment=here.environment)
    assert ended.status == 0, ended.err
    assert await here.storage.list_snapshot_ids(location=location_of("restored")) == ids
    file.write_bytes(file.read_bytes()[:-700])
    ended = await snapstore(*arguments, "--yes", environment=here.environment)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("snapstore import: ")
    assert ended.err.count("\n") == 1


async def test_a_file_goes_through_pipes(here):
    ids = await write_chat(here.storage)
    ended = await program("export", here.name, "chat-1", "-", environment=here.environment)
    assert ended.status == 0, ended.err
    arguments = ("import", here.name, "-", "--as", "restored")
    refused = await program(*arguments, environment=here.environment, stdin=ended.out.encode())
    assert refused.status == 2
    imported = await program(
        *arguments, "--yes", environment=here.environment, stdin=ended.out.encode()
    )
    assert imported.status == 0, imported.err
    assert await here.storage.list_snapshot_ids(location=location_of("restored")) == ids


async def test_a_session_is_forked(here, snapstore):
    ids = await write_chat(here.storage)
    arguments = ("fork", here.name, "chat-1", "chat-2", "--upto", ids[1])
    assert (await snapstore(*arguments, environment=here.environment)).status == 2
    dry = await snapstore(*arguments, "--dry-run", environment=here.environment)
    assert (dry.status, len(dry.out.splitlines())) == (0, 4)
    ended = await snapstore(*arguments, "--yes", "--json", environment=here.environment)
    assert {line["result"] for line in lines(ended)} == {"copied"}
    assert await here.storage.list_snapshot_ids(location=location_of("chat-2")) == ids[:2]
    again = await snapstore(*arguments, "--yes", environment=here.environment)
    assert (again.status, again.out) == (1, "")
    assert "is not free" in again.err


async def test_damage_is_told_and_mended(here, snapstore):
    await write_chat(here.storage)
    good = await snapstore("verify", here.name, environment=here.environment)
    assert (good.status, good.out) == (0, "")
    latest = here.storage.layout.latest(LOCATION)
    await here.storage.objects.put(latest, b"broken")
    ended = await snapstore("verify", here.name, "--json", environment=here.environment)
    assert (ended.status, [line["kind"] for line in lines(ended)]) == (1, ["latest damaged"])
    assert (
        await snapstore("verify", here.name, "--mend", environment=here.environment)
    ).status == 2
    ended = await snapstore("verify", here.name, "--mend", "--yes", environment=here.environment)
    assert ended.status == 0, ended.err
    assert (await here.storage.load_snapshot(location=LOCATION)).data == {"turn": 2}


async def test_texts_are_redacted_and_never_shown(here, snapstore, tmp_path):
    await here.storage.checkpoint(
        location=LOCATION, snapshot=Snapshot.new({"messages": [{"content": [{"text": CANARY}]}]})
    )
    texts, patterns = tmp_path / "texts", tmp_path / "patterns"
    texts.write_text(f"{CANARY}\n\n")
    patterns.write_text("canary-[0-9]+\n")
    arguments = ("redact", here.name, "chat-1", "--texts", texts, "--patterns", patterns)
    assert (await snapstore(*arguments, environment=here.environment)).status == 2
    dry = await snapstore(*arguments, "--dry-run", environment=here.environment)
    assert (dry.status, dry.out.count("data.messages[0].content[0].text")) == (0, 2)
    ended = await snapstore(*arguments, "--yes", environment=here.environment)
    assert ended.status == 0, ended.err
    assert CANARY not in dry.out + dry.err + ended.out + ended.err
    loaded = await here.storage.load_snapshot(location=LOCATION)
    assert loaded.data == {"messages": [{"content": [{"text": "[redacted]"}]}]}
    patterns.write_text(f"({CANARY}\n")
    wrong = await snapstore(*arguments, "--yes", environment=here.environment)
    assert (wrong.status, CANARY in wrong.err) == (2, False)


@pytest.mark.seaweedfs
@pytest.mark.moto
async def test_versions_of_a_session_that_was_deleted_are_redacted(
    s3_server, s3_client, snapstore, tmp_path
):
    bucket = f"versions-{uuid.uuid4().hex}"
    create_bucket(s3_server, bucket)
    await s3_client.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    texts = tmp_path / "texts"
    texts.write_text(f"{CANARY}\n")
    async with S3Storage(bucket, **s3_server.storage_options) as storage:
        await storage.checkpoint(location=LOCATION, snapshot=Snapshot.new({"x": CANARY}))
        await storage.delete_session(session_id="chat-1")
    arguments = ("redact", f"s3://{bucket}/", "chat-1", "--texts", texts)
    environment = {**s3_server.environment(), "AWS_ENDPOINT_URL": s3_server.endpoint_url}
    kept = await snapstore(*arguments, "--keep-versions", "--dry-run", environment=environment)
    assert (kept.status, "versions, which are kept" in kept.err) == (1, True)
    dry = await snapstore(*arguments, "--dry-run", environment=environment)
    assert (dry.status, dry.out.count("planned")) == (0, 2), dry.err
    assert "2 versions to be erased" in dry.err
    ended = await snapstore(*arguments, "--yes", environment=environment)
    assert (ended.status, ended.out.count("erased")) == (0, 2), ended.err
    gone = await snapstore(*arguments, "--dry-run", environment=environment)
    assert (gone.status, "there is no session" in gone.err) == (1, True)


async def test_texts_come_from_stdin(here):
    await here.storage.checkpoint(location=LOCATION, snapshot=Snapshot.new({"x": CANARY}))
    arguments = ("redact", here.name, "chat-1", "--texts", "-")
    stdin = f"{CANARY}\n".encode()
    refused = await program(*arguments, environment=here.environment, stdin=stdin)
    assert refused.status == 2
    ended = await program(*arguments, "--yes", environment=here.environment, stdin=stdin)
    assert ended.status == 0, ended.err
    assert (await here.storage.load_snapshot(location=LOCATION)).data == {"x": "[redacted]"}


async def test_a_terminal_asks_before_it_copies(here, tmp_path):
    ids = await write_chat(here.storage)
    copy = ("copy", here.name, tmp_path / "backup")
    async with in_a_terminal(*copy, environment=here.environment) as terminal:
        await terminal.until("Do it? [y/N]: ")
        assert "5 objects to be copied" in terminal.shown
        terminal.type("y\r")
        assert await terminal.ended() == 0
    async with FileStorage(tmp_path / "backup") as copied:
        assert await copied.list_snapshot_ids(location=LOCATION) == ids


async def test_a_message_log_is_imported(snapstore, tmp_path):
    log = tmp_path / "log" / "session_chat-1"
    agent = log / "agents" / "agent_weather"
    (agent / "messages").mkdir(parents=True)
    times = {"created_at": "2026-01-02T03:04:05+00:00", "updated_at": "2026-01-02T03:04:06+00:00"}
    (log / "session.json").write_text(
        json.dumps({"session_id": "chat-1", "session_type": "AGENT", **times})
    )
    state = {"agent_id": "weather", "state": {}, "conversation_manager_state": {}, **times}
    (agent / "agent.json").write_text(json.dumps(state))
    message = {"message": {"role": "user", "content": [{"text": "Hello"}]}, "message_id": 0}
    (agent / "messages" / "message_0.json").write_text(json.dumps({**message, **times}))
    (tmp_path / "target").mkdir()
    ended = await snapstore("import-log", tmp_path / "log", tmp_path / "target", "--yes")
    assert ended.status == 0, ended.err
    shown = await snapstore("show", tmp_path / "target", "chat-1")
    assert "user: Hello" in shown.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["copy", ".", ".", "--yes"], "same"),
        (["copy", "nowhere", "x", "--yes"], "no directory nowhere"),
        (["export", ".", "s-1", "missing/chat.tar"], "missing"),
        (["export", ".", "s-1", "chat.tar"], "s-1"),
        (["import", ".", "no-such.tar", "--yes"], "no-such.tar"),
        (["import", ".", "-"], "nobody can be asked"),
        (["fork", ".", "s-1", "s-1", "--yes"], "into itself"),
        (["fork", ".", "s-1", "S", "--yes"], "session_id"),
        (["verify", ".", "--session", "S"], "session_id"),
        (["redact", ".", "s-1", "--yes"], "nothing to replace"),
        (["redact", ".", "s-1", "--texts", "missing", "--yes"], "missing"),
    ],
)
async def test_what_can_not_be_is_refused(arguments, words, tmp_path, monkeypatch, snapstore):
    monkeypatch.chdir(tmp_path)
    ended = await snapstore(*arguments)
    assert ended.status in (1, 2)
    assert ended.out == ""
    assert words in ended.err
    assert list(tmp_path.iterdir()) == []
