"""S3Storage where something watches or replaces what it stands on: blockbuster, the program's end.

Each is a program of its own, since it changes its whole process.
"""

import asyncio
import os
import subprocess
import sys

import pytest

from snapstore import S3Storage, SnapshotLocation

LOCATION = SnapshotLocation.agent("session-1", "weather")

BEGIN = """
import asyncio, atexit, os, sys
from snapstore import LifecycleError, S3Storage, Snapshot, SnapshotLocation

LOCATION = SnapshotLocation.agent("session-1", "weather")
LARGE = Snapshot.new({"text": "x" * 4_000_000})

def make():
    return S3Storage(sys.argv[1], prefix=sys.argv[2])
"""

WATCHED = """
from blockbuster import BlockBuster

async def main():
    async with make() as storage:
        saved = await storage.checkpoint(location=LOCATION, snapshot=LARGE)
        assert await storage.load_snapshot(location=LOCATION) == LARGE
        assert await storage.list_snapshot_ids(location=LOCATION) == [saved.snapshot_id]
        assert (await storage.check()).ok
        await storage.delete_session(session_id="session-1")

watching = BlockBuster()
watching.activate()
asyncio.run(main())
print("done")
"""

AT_EXIT = """
storage = make()
runner = asyncio.Runner()

@atexit.register
def save():
    runner.run(storage.save_snapshot(location=LOCATION, snapshot=LARGE, is_latest=True))
    try:
        runner.run(make().open())
    except LifecycleError as error:
        print(error)
    runner.run(storage.aclose())
    runner.close()

runner.run(storage.open())
"""

FAR_AT_EXIT = """
from urllib.parse import urlsplit
from aiobotocore.config import AioConfig
from snapstore import StorageUnavailableError

storage = S3Storage(
    sys.argv[1],
    endpoint_url=f"http://localhost:{urlsplit(os.environ['AWS_ENDPOINT_URL_S3']).port}",
    config=AioConfig(
        s3={"addressing_style": "path"},
        connector_args={"force_close": True, "keepalive_timeout": None, "use_dns_cache": False},
    ),
)
runner = asyncio.Runner()

@atexit.register
def load():
    try:
        runner.run(storage.load_snapshot(location=LOCATION))
    except StorageUnavailableError as error:
        print(error)
    runner.run(storage.aclose())
    runner.close()

runner.run(storage.open())
runner.run(storage.load_snapshot(location=LOCATION))
"""


def run(program, bucket, prefix, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEGIN + program, bucket, prefix],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def without_keys(environment):
    return {name: value for name, value in environment.items() if "KEY" not in name}


@pytest.mark.parametrize("credentials", ["in the environment", "in a file"])
def test_nothing_blocks_a_loop_that_is_watched(credentials, s3_server, bucket, prefix, tmp_path):
    environment = s3_server.environment()
    if credentials == "in a file":
        keys = {name: value for name, value in environment.items() if "KEY" in name}
        path = tmp_path / "credentials"
        path.write_text(
            "[default]\n" + "".join(f"{name.lower()} = {value}\n" for name, value in keys.items())
        )
        environment = without_keys(environment) | {"AWS_SHARED_CREDENTIALS_FILE": str(path)}

    assert run(WATCHED, bucket, prefix, **environment) == "done\n"


def test_open_storage_saves_at_interpreter_exit(s3_server, bucket, prefix):
    said = run(AT_EXIT, bucket, prefix, **s3_server.environment())

    assert said.startswith("a client for S3 can't be opened while the interpreter exits")
    assert "configuration" not in said

    async def load():
        async with S3Storage(bucket, prefix=prefix, **s3_server.storage_options) as storage:
            return await storage.load_snapshot(location=LOCATION)

    assert asyncio.run(load()).data == {"text": "x" * 4_000_000}


def test_name_unresolved_at_interpreter_exit_is_told(s3_server, bucket, prefix):
    said = run(FAR_AT_EXIT, bucket, prefix, **s3_server.environment())

    assert "the server's name can't be resolved while the interpreter exits" in said


FILES_WATCHED = """
from blockbuster import BlockBuster
from snapstore import FileStorage

async def main():
    for root in ("relative", sys.argv[1]):
        async with FileStorage(root) as storage:
            saved = await storage.checkpoint(location=LOCATION, snapshot=LARGE)
            assert await storage.load_snapshot(location=LOCATION) == LARGE
            assert await storage.list_snapshot_ids(location=LOCATION) == [saved.snapshot_id]
            assert (await storage.check()).ok
            await storage.delete_session(session_id="session-1")

os.chdir(sys.argv[2])
watching = BlockBuster()
watching.activate()
asyncio.run(main())
print("done")
"""

FILES_AT_EXIT = """
from snapstore import FileStorage

storage = FileStorage(sys.argv[1])
runner = asyncio.Runner()

@atexit.register
def save():
    try:
        runner.run(storage.save_snapshot(location=LOCATION, snapshot=LARGE, is_latest=True))
    except LifecycleError as error:
        print(error)
    runner.run(storage.aclose())
    runner.close()

runner.run(storage.open())
"""


def test_no_file_blocks_a_loop_that_is_watched(tmp_path):
    assert run(FILES_WATCHED, str(tmp_path / "root"), str(tmp_path)) == "done\n"


def test_file_write_at_interpreter_exit_is_an_error(tmp_path):
    said = run(FILES_AT_EXIT, str(tmp_path / "root"), str(tmp_path))

    assert "while the interpreter exits" in said
    assert "save before the main thread ends" in said
