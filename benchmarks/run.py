"""The benchmark: what snapstore costs beside its peers, on a stub of S3.

Run it with `nox -s bench`; `nox -s bench -- --short` only shows, in less than two minutes, that all
of it works and that all variants do the same work. It fails where they don't, never for a time.

    stub_s3.py, stub.py     S3 in another process, which counts
    workload.py             the snapshots
    peers.py, node.py       who is measured
    measure.py              a block of operations, and ratios between blocks
    scenarios.py            what is measured, and the proof of equal work
    targets.py, report.py   what it is to be, and how it is told

How it is kept honest: all variants but Node run in this one process, in blocks that take turns;
ratios are those of one round, so that a noisy minute meets both sides; what is measured is the CPU
of the process, with all its threads; garbage of one block is collected before the next. Each has a
pool as large as the concurrency.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import report, targets
from benchmarks.scenarios import Bench, Plan, Results
from benchmarks.stub import REGION, UnequalWorkError, running_stub

DESCRIPTION = "What snapstore costs beside its peers, on a stub of S3."
RESULTS = Path(__file__).with_name("results")
FULL = Plan(
    rounds=8,
    cells=targets.CELLS,
    listed=100_000,
    deleted=10_000,
    delete_time=0.020,
    warm_up=True,
    slow_rounds=1,
    stall_sizes=("2 MB", "10 MB"),
)
SHORT = Plan(
    rounds=1,
    cells=tuple(
        replace(cell, count=4 if cell.workload == "2 MB" else cell.concurrency)
        for cell in targets.CELLS
    ),
    listed=3_500,
    deleted=1_500,
    delete_time=0.001,
    warm_up=False,
    slow_rounds=1,
    stall_sizes=("2 MB",),
)
PACKAGES = ("aiobotocore", "aiohttp", "msgspec", "obstore", "boto3", "strands-agents", "uvloop")


def main() -> int:
    arguments = _parser().parse_args()
    plan = SHORT if arguments.short else replace(FULL, rounds=arguments.rounds)
    start = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {what}", file=sys.stderr, flush=True)

    if arguments.node is None:
        say("without Strands TypeScript: no folder that has it was given (--node)")
    with running_stub() as stub, tempfile.TemporaryDirectory() as temporary:
        prepare_environment(stub.certificate)
        bench = Bench(plan, stub, arguments.node, say)
        bench.results.about = _about(plan, arguments.node)
        load = [os.getloadavg()[0]]
        try:
            asyncio.run(bench.run())
        except UnequalWorkError as error:
            print(f"not the same work: {error}", file=sys.stderr)
            return 1
        load.append(os.getloadavg()[0])
        # One core is this program's, the other the stub's: more than 2 is somebody else's noise.
        bench.results.about["load before and after"] = " and ".join(f"{one:.1f}" for one in load)
        folder = arguments.output or (Path(temporary) if arguments.short else RESULTS)
        report.write_all(bench.results, folder)
    _print_summary(bench.results, short=arguments.short)
    say("done")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=DESCRIPTION)
    parser.add_argument("--short", action="store_true", help="a little of everything, for CI")
    parser.add_argument("--rounds", type=int, default=FULL.rounds, help="default: %(default)s")
    parser.add_argument(
        "--node",
        type=Path,
        default=os.environ.get("SNAPSTORE_REFERENCE"),
        help="a folder whose node_modules has the Strands SDK; default: $SNAPSTORE_REFERENCE",
    )
    parser.add_argument(
        "--output", type=Path, help="where results are written; default: benchmarks/results"
    )
    return parser


def prepare_environment(certificate: Path) -> None:
    """What all variants find out for themselves; nothing of the user's is used."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE",
        AWS_SECRET_ACCESS_KEY="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",  # noqa: S106 -- of Amazon's manual
        AWS_REGION=REGION,
        AWS_DEFAULT_REGION=REGION,
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CA_BUNDLE=str(certificate),
    )


def _about(plan: Plan, node: Path | None) -> dict[str, str]:
    return {
        **about_machine(PACKAGES, node),
        "rounds": str(plan.rounds),
        "listed": f"{plan.listed:,}",
        "deleted": f"{plan.deleted:,} objects at {plan.delete_time * 1000:.0f} ms a request",
    }


def about_machine(packages: Sequence[str], node: Path | None) -> dict[str, str]:
    """What figures depend on: the date, the machine and versions."""
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
        "Python": platform.python_version(),
        "snapstore": version("snapstore"),
        "packages": ", ".join(f"{name} {version(name)}" for name in packages),
    }
    if node is not None:
        run = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True)  # noqa: S607 -- found on PATH
        about["Node"] = run.stdout.strip()
    return about


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _print_summary(results: Results, *, short: bool) -> None:
    for line in report.page(results):
        print(line)
    if short:
        print("A short run proves that the work is the same. Its times say nothing.")


if __name__ == "__main__":
    sys.exit(main())
