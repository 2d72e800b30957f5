"""The demo as a whole, on a server of the user's or on one that is started for it."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from time import perf_counter
from typing import Final

from snapstore import S3Storage, SnapstoreError, __version__
from snapstore.demo.lister import IndependentLister
from snapstore.demo.output import say
from snapstore.demo.steps import Demo
from snapstore.demo.target import DemoError, Target, verify

__all__ = ["DemoError", "run"]

_BUCKET: Final = "demo"


def run(
    *, bucket: str | None, prefix: str | None, endpoint_url: str | None, region: str | None
) -> None:
    """Run the demo and print what happens.

    Args:
        bucket: A bucket that exists, used with the credentials that botocore finds; `None` for a
            new one on a server started for the demo.
        prefix: What all keys begin with; `None` for a new prefix.
        endpoint_url: Where the server is; `None` for botocore's resolution.
        region: The bucket's region; `None` for botocore's resolution.

    Raises:
        DemoError: A claim is not true, no server could be started, or a worker failed.
        SnapstoreError: A request failed.
    """
    token = secrets.token_hex(4)
    target = Target(
        bucket=_BUCKET if bucket is None else bucket,
        prefix=f"snapstore-demo-{token}" if prefix is None else prefix,
        session_id=f"session-{token}",
        endpoint_url=endpoint_url,
        region=region,
    )
    say(f"snapstore {__version__}: the life of one agent session in S3")
    started = perf_counter()
    if bucket is not None:
        asyncio.run(_demonstrate(target, "yours", started))
        return

    from snapstore.testing.server import ServerUnavailableError, create_bucket, running_server

    try:
        with running_server() as server, _environment(server.environment()):
            create_bucket(server, _BUCKET)
            asyncio.run(_demonstrate(target, "SeaweedFS, started for this demo", started))
    except ServerUnavailableError as error:
        raise DemoError(str(error)) from error


async def _demonstrate(target: Target, server: str, started: float) -> None:
    async with target.storage() as storage:
        # The first request finds out whether the server and the bucket are there at all.
        await storage.list_snapshot_ids(location=target.location, limit=1)
        with closing(await asyncio.to_thread(IndependentLister, target)) as lister:
            # Before anything is saved, since whatever is there will be deleted.
            verify(not await asyncio.to_thread(lister.keys), "the new session has objects")
            say(f"  server   {lister.endpoint_url} ({server})", started)
            say("  session  as the Strands TypeScript SDK wrote it: text, a tool call, an image")
            say(f"  …/ is    s3://{target.bucket}/{target.snapshots}")
            try:
                await Demo(target, storage, lister).run()
            except BaseException:
                await _delete_leftovers(target, storage)
                raise
    say()
    seconds = perf_counter() - started
    say(f"Proved in {seconds:.1f} s: no saved turn was lost with the killed worker, no update was")
    say("overwritten by another writer, and of the deleted session nothing is left.")


async def _delete_leftovers(target: Target, storage: S3Storage) -> None:
    try:
        await storage.delete_session(session_id=target.session_id)
    except SnapstoreError as error:
        left = f"s3://{target.bucket}/{target.session}"
        print(f"snapstore demo: {left} may not be empty: {error}", file=sys.stderr)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Have this process and its workers find only our own server, whatever the user configured."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("AWS_"):
            del os.environ[name]
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    os.environ.update({**nothing, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **changes})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
