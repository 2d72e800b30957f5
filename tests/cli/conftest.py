"""Places for the command line: a directory, and a bucket; and the command line in this process."""

import asyncio
from typing import Any, NamedTuple

import pytest

from programs import Ended
from snapstore import FileStorage, ObjectSnapshotStorage, S3Storage
from snapstore.cli import main


class Here(NamedTuple):
    """A place, as the command line names it, and its storage."""

    name: str
    storage: ObjectSnapshotStorage
    environment: dict[str, Any]


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.s3)])
async def here(request, tmp_path):
    if request.param == "directory":
        root = tmp_path / "snapshots"
        root.mkdir()
        name, environment, storage = str(root), {}, FileStorage(root)
    else:
        server = request.getfixturevalue("s3_server")
        bucket, prefix = request.getfixturevalue("bucket"), request.getfixturevalue("prefix")
        environment = {**server.environment(), "AWS_ENDPOINT_URL": server.endpoint_url}
        name = f"s3://{bucket}/{prefix}/"
        storage = S3Storage(bucket, prefix=prefix, **server.storage_options)
    async with storage:
        yield Here(name, storage, environment)


@pytest.fixture
def snapstore(capsys, monkeypatch):
    """A function that runs a command in this process, on an event loop in another thread."""

    async def run(*arguments, environment=None):
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        status = await asyncio.to_thread(main, [*map(str, arguments)])
        return Ended(status, *capsys.readouterr())

    return run
