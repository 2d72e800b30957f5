"""Whether snapstore has become slower: its CPU now, beside the figures that were recorded.

`nox -s bench` compares, and in CI `nox -s bench -- --short`. It fails if a figure is above its
bound. `nox -s bench -- --record` records the figures anew, in `results/trend.json`.

A figure is the CPU of snapstore divided by that of what does not change with it: plain msgspec for
the codec, aiohttp without signatures (with snapstore's codec) for a save and a load. The two take
turns of some milliseconds, so that a noisy neighbour meets both, and the figure is the median of
the ratios of all turns. CPU counts no time in which others ran, but their use of the caches and of
the other half of a core is felt.

The bounds are above what runs of one version differed by, on machines of two cores that others
used: 1.29 for the codec of up to 100 KB, and 1.18 for requests. For 2 MB it was 1.9, so these
figures are shown, and have no bound. A figure above its bound is measured again, twice at the most,
and the lowest counts: noise passes, a regression stays.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.measure import Operation, ratio
from benchmarks.peers import MAX_BYTES, BareAiohttp, Snapstore
from benchmarks.report import markdown_table
from benchmarks.run import RESULTS, about_machine, prepare_environment
from benchmarks.stub import StubClient, running_stub
from benchmarks.workload import Workload, make_workload
from snapstore.encoding.envelope import decode_snapshot, encode_snapshot

DESCRIPTION = "Compares the CPU of snapstore with recorded figures."
RECORDED = RESULTS / "trend.json"
PACKAGES = ("aiobotocore", "aiohttp", "msgspec")
CODEC_BOUND = 1.6
REQUEST_BOUND = 1.5
# Another processor changes both sides of a ratio, and not alike; another Python hardly does.
OTHER_MACHINE_BOUND = 2.5
UNBOUNDED = "2 MB"
MEASUREMENTS = 3
SIZES = {"5 KB": 5_000, "100 KB": 100_000, "2 MB": 2_000_000}
BLOCKS = {"5 KB": 32, "100 KB": 12}
CONCURRENCY = 4
SLICE = 0.0005
TURNS = 30
SHOWN = 6


class Record(msgspec.Struct, frozen=True):
    """Figures of one version.

    Attributes:
        date: When they were measured.
        version: Of snapstore.
        machine: The processor and Python.
        packages: Versions of what is below snapstore, and what it is divided by.
        figures: The ratios.
    """

    date: str
    version: str
    machine: str
    packages: str
    figures: dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.trend", description=DESCRIPTION)
    parser.add_argument("--record", action="store_true", help="record the figures anew")
    arguments = parser.parse_args()
    records = read_records(RECORDED)
    if arguments.record:
        measured = [measure() for _ in range(MEASUREMENTS)]
        records.append(combine(measured, statistics.median))
        RECORDED.write_bytes(msgspec.json.format(msgspec.json.encode(records)) + b"\n")
        print("\n".join(page(records)))
        return 0
    if not records:
        print(f"{RECORDED} has no figures: nox -s bench -- --record", file=sys.stderr)
        return 1
    now = measure()
    for _ in range(MEASUREMENTS - 1):
        if exceeded(records[-1], now):
            now = combine([now, measure()], min)
    print("\n".join(page([*records, now], last="now")))
    if now.machine != records[-1].machine:
        print(f"\nThe last figures are of another machine: {records[-1].machine}.")
    slower = exceeded(records[-1], now)
    for line in slower:
        print(line, file=sys.stderr)
    if slower:
        print(
            "snapstore takes more CPU than it did. If that is meant, record the new figures: "
            "nox -s bench -- --record",
            file=sys.stderr,
        )
    return 1 if slower else 0


def measure_codec(workload: Workload) -> dict[str, float]:
    """Encoding and decoding, divided by plain msgspec's."""
    data = encode_snapshot(workload.snapshot, max_bytes=MAX_BYTES)
    encode = partial(encode_snapshot, workload.snapshot, max_bytes=MAX_BYTES)
    decode = partial(decode_snapshot, data, key="key")
    return {
        f"{workload.name}: encode": _ratio_of(
            encode, partial(msgspec.json.encode, workload.document)
        ),
        f"{workload.name}: decode": _ratio_of(decode, partial(msgspec.json.decode, data)),
    }


def _ratio_of(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    repeats = {call: max(1, round(SLICE / _cpu_of(call, 3))) for call in (ours, theirs)}
    turns = [[_cpu_of(call, repeats[call]) for call in (ours, theirs)] for _ in range(TURNS)]
    return ratio(*zip(*turns, strict=True)).median


def _cpu_of(call: Callable[[], object], repeats: int) -> float:
    # What others have put into the caches is gone after one call.
    call()
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


async def measure_requests(stub: StubClient) -> dict[str, float]:
    """A save and a load, divided by what aiohttp takes for the same with snapstore's codec."""
    where = stub.endpoints["http"], stub.certificate
    ours, floor = Snapstore("snapstore", *where, direct=True), BareAiohttp("aiohttp", *where)
    figures: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        for peer in (ours, floor):
            await peer.start(stack)
        for name, count in BLOCKS.items():
            workload = make_workload(name, SIZES[name])
            operations: tuple[Operation, ...] = ("save", "load")
            for operation in operations:
                costs: dict[str, list[float]] = {"snapstore": [], "aiohttp": []}
                for turn in range(TURNS + 1):
                    for peer in (ours, floor):
                        slots = min(CONCURRENCY, count)
                        block = await peer.block(operation, workload, count, slots)
                        # The first turn fills the slots.
                        if turn:
                            costs[peer.name].append(block.cpu)
                figures[f"{name}: {operation}"] = ratio(costs["snapstore"], costs["aiohttp"]).median
    return figures


def measure() -> Record:
    """Measure all figures once."""
    about = about_machine(PACKAGES, None)
    figures: dict[str, float] = {}
    gc.collect()
    gc.freeze()
    for name, size in SIZES.items():
        figures |= measure_codec(make_workload(name, size))
    with running_stub() as stub:
        prepare_environment(stub.certificate)
        stub.set_knobs(verify=False)
        figures |= asyncio.run(measure_requests(stub))
    return Record(
        date=about["date"],
        version=about["snapstore"],
        machine=f"{about['machine']}, Python {about['Python'].rpartition('.')[0]}",
        packages=about["packages"],
        figures={name: round(value, 3) for name, value in figures.items()},
    )


def combine(records: Sequence[Record], choose: Callable[[list[float]], float]) -> Record:
    """The last one of some records, where each figure is chosen from those of all."""
    last = records[-1]
    figures = {name: choose([one.figures[name] for one in records]) for name in last.figures}
    return msgspec.structs.replace(last, figures=figures)


def exceeded(last: Record, now: Record) -> list[str]:
    """A line for each figure that is above its bound. A new figure has none."""
    lines: list[str] = []
    for name, value in now.figures.items():
        if name.startswith(UNBOUNDED):
            continue
        recorded = last.figures.get(name, value)
        allowed = recorded * bound(name, last, now)
        if value > allowed:
            lines.append(
                f"{name}: {value:.2f} times the CPU of {_base(name)}. "
                f"{last.version} took {recorded:.2f}; up to {allowed:.2f} may be noise."
            )
    return lines


def bound(name: str, last: Record, now: Record) -> float:
    """How many times the recorded figure a figure may be."""
    if last.machine != now.machine:
        return OTHER_MACHINE_BOUND
    return REQUEST_BOUND if _base(name) == "aiohttp" else CODEC_BOUND


def read_records(path: Path) -> list[Record]:
    """The recorded figures, the oldest first."""
    return msgspec.json.decode(path.read_bytes(), type=list[Record]) if path.exists() else []


def page(records: Sequence[Record], *, last: str | None = None) -> Iterator[str]:
    """A table of the figures over time, the newest last; `last` is what that one is called."""
    shown = records[-SHOWN:]
    head = ["CPU", *(f"{one.version}, {one.date[:10]}" for one in shown)]
    head[-1] = last or head[-1]
    lines: list[list[str]] = []
    for name in shown[-1].figures:
        values = [one.figures.get(name) for one in shown]
        line = ["" if value is None else f"{value:.2f}" for value in values]
        lines.append([f"{name} ÷ {_base(name)}", *line])
    yield from markdown_table(head, lines)


def _base(name: str) -> str:
    return "aiohttp" if name.endswith(("save", "load")) else "msgspec"


if __name__ == "__main__":
    sys.exit(main())
