"""The storages that operations are tried on."""

import pytest

from snapstore import FileStorage, MemoryStorage, S3Storage


@pytest.fixture(params=[pytest.param("s3", marks=pytest.mark.s3), "file", "memory"])
async def storage(request, tmp_path):
    match request.param:
        case "file":
            storage = FileStorage(tmp_path)
        case "memory":
            storage = MemoryStorage()
        case "s3":
            server = request.getfixturevalue("s3_server")
            storage = S3Storage(
                request.getfixturevalue("bucket"),
                prefix=request.getfixturevalue("prefix"),
                **server.storage_options,
            )
    async with storage:
        yield storage
