"""The version of the package, also where its metadata is missing."""

import os
import subprocess
import sys

import snapstore

WITHOUT_METADATA = """
import asyncio, sys
from importlib.metadata import Distribution, PackageNotFoundError, version

def from_name(name, found=Distribution.from_name):
    if name == "snapstore":
        raise PackageNotFoundError(name)
    return found(name)

Distribution.from_name = from_name
try:
    version("snapstore")
except PackageNotFoundError:
    pass
else:
    raise SystemExit("the metadata is still found")

import snapstore
from snapstore.cli import main

async def save():
    location = snapstore.SnapshotLocation.agent("s-1", "weather")
    snapshot = snapstore.Snapshot.new({"text": "kept"})
    async with snapstore.S3Storage(sys.argv[1], prefix=sys.argv[2]) as storage:
        await storage.save_snapshot(location=location, snapshot=snapshot, is_latest=True)
        assert await storage.load_snapshot(location=location) == snapshot

asyncio.run(save())
main(["--version"])
"""


def test_version_is_that_of_the_metadata() -> None:
    from importlib.metadata import version

    assert snapstore.__version__ == version("snapstore")
    assert "__version__" in dir(snapstore)


def test_storage_saves_without_the_metadata_of_the_package(s3_server, bucket, prefix) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_METADATA, bucket, prefix],
        env=os.environ | s3_server.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert ended.stdout == f"snapstore {snapstore.__version__}\n"
