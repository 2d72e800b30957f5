"""The two sides: a storage of snapstore, and one of the reference that keeps its objects there."""

import json
import os
import select
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from snapstore import FileStorage, ObjectSnapshotStorage, S3Storage

ANSWER_WITHIN = 120.0  # seconds


class Reference:
    """A Node process that runs the reference's storages."""

    def __init__(self, process):
        self.process = process

    def call(self, storage, call, params):
        """Call a method of a storage; an exception there is a `RuntimeError` here."""
        request = json.dumps({"storage": storage, "call": call, "params": params})
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answers, _, _ = select.select([self.process.stdout], [], [], ANSWER_WITHIN)
        assert answers, f"the reference does not answer to {call}"
        line = self.process.stdout.readline()
        assert line, "the reference has ended; its last words are on stderr"
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer.get("result")


@dataclass
class Theirs:
    """One storage of the reference, with the names and the shapes of its documentation."""

    reference: Reference
    storage: dict[str, Any]

    def save(self, location, snapshot, snapshot_id=None):
        self._call(
            "saveSnapshot",
            location,
            snapshot=snapshot,
            snapshotId=snapshot_id or "latest",
            isLatest=snapshot_id is None,
        )

    def load(self, location, snapshot_id=None):
        return self._call("loadSnapshot", location, **_given(snapshotId=snapshot_id))

    def list(self, location, limit=None, start_after=None):
        options = _given(limit=limit, startAfter=start_after)
        return self._call("listSnapshotIds", location, **options)

    def load_manifest(self, location):
        return self._call("loadManifest", location)

    def save_manifest(self, location, manifest):
        self._call("saveManifest", location, manifest=manifest)

    def copy_history(self, location, to):
        self._call("copyHistory", location, to=_named(to))

    def delete_session(self, session_id):
        self.reference.call(self.storage, "deleteSession", {"sessionId": session_id})

    def _call(self, call, location, **params):
        params["location"] = _named(location)
        return self.reference.call(self.storage, call, params)


@dataclass
class Sides:
    """Both sides of one store, and a look at its keys that needs neither."""

    ours: ObjectSnapshotStorage
    theirs: Theirs
    keys: Any


@pytest.fixture(scope="session")
def reference(s3_server):
    folder = Path(os.environ["SNAPSTORE_REFERENCE"])
    process = subprocess.Popen(
        ["node", "reference.mjs"],
        cwd=folder,
        env=os.environ | s3_server.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Reference(process)
        process.stdin.close()
        assert process.wait(ANSWER_WITHIN) == 0


@asynccontextmanager
async def s3_sides(request, kind, our_prefix):
    bucket, prefix = request.getfixturevalue("bucket"), request.getfixturevalue("prefix")
    server = request.getfixturevalue("s3_server")
    session = request.getfixturevalue("aws_session")
    async with (
        session.create_client("s3", **server.client_options) as client,
        S3Storage(bucket, prefix=our_prefix.format(prefix), client=client) as storage,
    ):

        async def keys():
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{prefix}/"
            )
            return {found["Key"] async for page in pages for found in page.get("Contents", ())}

        reference = request.getfixturevalue("reference")
        yield Sides(
            storage, Theirs(reference, {"kind": kind, "bucket": bucket, "prefix": prefix}), keys
        )


@asynccontextmanager
async def file_sides(request):
    root = request.getfixturevalue("tmp_path")

    async def keys():
        files = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
        return {path.as_posix() for path in files}

    async with FileStorage(root) as storage:
        reference = request.getfixturevalue("reference")
        yield Sides(storage, Theirs(reference, {"kind": "FileStorage", "root": str(root)}), keys)


@pytest.fixture(params=["S3Storage", "FileStorage", "UnifiedStorage"])
async def sides(request):
    if request.param == "FileStorage":
        sides = file_sides(request)
    elif request.param == "S3Storage":
        sides = s3_sides(request, "S3Storage", "{}")
    else:
        # It puts everything under `session/`, which for snapstore is part of the prefix.
        sides = s3_sides(request, "UnifiedStorage", "{}/session")
    async with sides as both:
        yield both


def _named(location):
    return {
        "sessionId": location.session_id,
        "scope": location.scope,
        "scopeId": location.scope_id,
    }


def _given(**options):
    return {name: value for name, value in options.items() if value is not None}
