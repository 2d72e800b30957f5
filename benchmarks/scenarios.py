"""What is measured, with the proof that everybody did the same work."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from benchmarks.measure import Block, Operation, longest_stall, measure_block, peak_memory
from benchmarks.measure import percentile as percentile_of
from benchmarks.node import StrandsTypeScript
from benchmarks.peers import (
    AGENT,
    MAX_BYTES,
    BareAiohttp,
    Botocore,
    Obstore,
    Peer,
    Snapstore,
    StrandsPython,
    TunedBotocore,
)
from benchmarks.stub import StubClient, require
from benchmarks.workload import Workload, make_workload
from snapstore import SnapshotLocation
from snapstore.encoding.envelope import encode_snapshot

SNAPSTORE = "snapstore"
GENERIC = "snapstore, direct path off"
BOTOCORE = "aiobotocore"
TUNED = "aiobotocore, tuned"
FLOOR = "aiohttp, unsigned"
OBSTORE = "obstore"
PYTHON = "Strands Python"
TYPESCRIPT = "Strands TypeScript"

SIZES = {
    "5 KB": 5_000,
    "20 KB": 20_000,
    "100 KB": 100_000,
    "2 MB": 2_000_000,
    "10 MB": 10_000_000,
}
OPERATIONS: tuple[Operation, ...] = ("save", "load")


class Variant(Protocol):
    """A way to save and load snapshots, wherever it runs."""

    name: str
    prefix: str

    async def start(self, stack: AsyncExitStack) -> None:
        """Open it; the stack closes it."""

    def key(self, slot: int) -> str:
        """The key that slot number `slot` saves to."""
        ...

    async def block(
        self, operation: Operation, workload: Workload, count: int, concurrency: int
    ) -> Block:
        """Save or load `count` times, and measure it."""
        ...

    async def load_content(self, workload: Workload) -> Any:
        """What slot 0 holds, as it loads it."""


@dataclass(frozen=True)
class Cell:
    """One table of figures: a size at a concurrency.

    Attributes:
        workload: The size.
        concurrency: Operations at once.
        count: Operations in a block.
        scheme: `http` or `https`.
        service_time: Seconds that the stub takes for each reply.
        continue_time: Seconds that the stub takes to say `100 Continue`.
        operations: What is measured.
        only: The variants that take part; none named means all.
    """

    workload: str
    concurrency: int
    count: int
    scheme: str = "http"
    service_time: float = 0.0
    continue_time: float = 0.0
    operations: tuple[Operation, ...] = OPERATIONS
    only: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the tables call it."""
        words = [self.workload, f"concurrency {self.concurrency}"]
        if self.scheme == "https":
            words.append("TLS")
        if self.service_time:
            words.append(f"{self.service_time * 1000:.0f} ms a request")
        if self.continue_time:
            words.append(f"{self.continue_time * 1000:.0f} ms round trip")
        return ", ".join(words)


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Attributes:
        rounds: How often each block is measured.
        cells: The tables of operations.
        listed: Ids in the listing.
        deleted: Objects in the delete.
        delete_time: Seconds that the stub takes for each request of the delete.
        warm_up: Whether a round goes before them that does not count.
        slow_rounds: In how many rounds of the delete Strands Python takes part: it is slow.
        stall_sizes: The snapshots whose stall of the event loop is measured.
    """

    rounds: int
    cells: tuple[Cell, ...]
    listed: int
    deleted: int
    delete_time: float
    warm_up: bool
    slow_rounds: int
    stall_sizes: tuple[str, ...]


@dataclass
class Series:
    """A variant's figures in one cell.

    Attributes:
        cpu: Seconds of CPU of the client process for each operation, round by round.
        wall: Seconds for each operation, round by round.
        latencies: Seconds of each single operation of all rounds.

    Where only one operation is measured at a time, only what is of use is filled in.
    """

    cpu: list[float] = field(default_factory=list[float])
    wall: list[float] = field(default_factory=list[float])
    latencies: list[float] = field(default_factory=list[float])

    def percentile(self, part: float) -> float:
        """A percentile of the latencies, in seconds."""
        return percentile_of(self.latencies, part)


@dataclass
class Work:
    """What a variant did for one save and one load, as the stub saw it.

    Attributes:
        stored: Bytes stored.
        continues: How often it waited for `100 Continue`.
        checked_reads: How often it asked for the checksum of what it read.
    """

    stored: int
    continues: int
    checked_reads: int


@dataclass
class Stall:
    """What an operation on a large snapshot does to the others in the process.

    Attributes:
        stalls: The longest stall of the event loop in each round, in seconds.
        memory: Bytes that Python held more at the worst time than before.
    """

    stalls: list[float]
    memory: int


Table = dict[str, Series]


@dataclass
class Results:
    """Everything that was measured, by variant.

    Attributes:
        about: Machine, versions and the like.
        cells: By cell's name, operation and variant.
        work: By size and variant.
        checks: Seconds of CPU that the strictness check takes, by size.
        listing: Listing the ids of a session.
        deleting: Deleting a session; no CPU, which for one of them is another process's.
        delete_memory: Bytes that Python held more at the worst time of snapstore's delete.
        stalls: By size, operation and variant.
        plain_encodes: Seconds of a `msgspec.json.encode` in each round of those, by size.
    """

    about: dict[str, str] = field(default_factory=dict[str, str])
    cells: dict[str, dict[Operation, Table]] = field(
        default_factory=dict[str, dict[Operation, Table]]
    )
    work: dict[str, dict[str, Work]] = field(default_factory=dict[str, dict[str, Work]])
    checks: dict[str, float] = field(default_factory=dict[str, float])
    listing: Table = field(default_factory=dict[str, Series])
    deleting: Table = field(default_factory=dict[str, Series])
    delete_memory: int = 0
    stalls: dict[str, dict[Operation, dict[str, Stall]]] = field(
        default_factory=dict[str, dict[Operation, dict[str, Stall]]]
    )
    plain_encodes: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


class Bench:
    """Measures a plan.

    Args:
        plan: What is measured.
        stub: The stub.
        node: A folder whose `node_modules` has the TypeScript SDK; `None` leaves it out.
        say: Where progress is told.
    """

    def __init__(
        self, plan: Plan, stub: StubClient, node: Path | None, say: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._stub = stub
        self._node = node
        self._say = say
        self._workloads = {name: make_workload(name, size) for name, size in SIZES.items()}
        self.results = Results()

    async def run(self) -> None:
        """Measure all of it."""
        self._measure_checks()
        for scheme in ("http", "https"):
            async with self._variants(scheme) as variants:
                for cell in self._plan.cells:
                    if cell.scheme == scheme:
                        await self._measure_cell(cell, variants)
                if scheme == "http":
                    await self._measure_stalls(variants)
                    await self._measure_listing(variants)
                    await self._measure_deleting(variants)

    @asynccontextmanager
    async def _variants(self, scheme: str) -> AsyncIterator[dict[str, Variant]]:
        where = self._stub.endpoints[scheme], self._stub.certificate
        variants: list[Variant] = [
            Botocore(BOTOCORE, *where),
            TunedBotocore(TUNED, *where),
            BareAiohttp(FLOOR, *where),
            Obstore(OBSTORE, *where),
            StrandsPython(PYTHON, *where),
            Snapstore(SNAPSTORE, *where, direct=True),
            Snapstore(GENERIC, *where, direct=False),
        ]
        if self._node is not None:
            variants.append(StrandsTypeScript(TYPESCRIPT, *where, self._node))
        async with AsyncExitStack() as stack:
            for variant in variants:
                await variant.start(stack)
            yield {variant.name: variant for variant in variants}

    @contextmanager
    def _knobs(self, **knobs: float) -> Iterator[None]:
        """Times of the stub, while something is measured."""
        self._stub.set_knobs(verify=False, **knobs)
        try:
            yield
        finally:
            self._stub.set_knobs(verify=True, **dict.fromkeys(knobs, 0.0))

    def _turns(self, names: Sequence[str]) -> Iterator[Sequence[str]]:
        """The names for each round, each time in another order, after a warm-up."""
        gc.collect()
        gc.freeze()
        for number in range(self._plan.rounds):
            first = number % len(names)
            yield [*names[first:], *names[:first]]

    # Operations

    async def _measure_cell(self, cell: Cell, variants: Mapping[str, Variant]) -> None:
        self._say(cell.name)
        chosen = {name: variants[name] for name in cell.only or variants if name in variants}
        workload = self._workloads[cell.workload]
        works: dict[str, Work] = {}
        for name, variant in chosen.items():
            slots = min(cell.concurrency, cell.count)
            works[name] = await self._prove_work(variant, workload, slots)
        if cell.scheme == "http" and not cell.only:
            self.results.work.setdefault(cell.workload, works)
        tables: dict[Operation, Table] = {
            operation: {name: Series() for name in chosen} for operation in cell.operations
        }
        knobs = {"service_time": cell.service_time, "continue_time": cell.continue_time}
        with self._knobs(**knobs):
            if self._plan.warm_up:
                for variant in chosen.values():
                    for operation in tables:
                        await variant.block(operation, workload, cell.count, cell.concurrency)
            for order in self._turns(list(chosen)):
                for name in order:
                    for operation, table in tables.items():
                        block = await self._proven_block(
                            chosen[name], operation, workload, cell, works[name]
                        )
                        series = table[name]
                        series.cpu.append(block.cpu / block.count)
                        series.wall.append(block.wall / block.count)
                        series.latencies += block.latencies
        self.results.cells[cell.name] = tables

    async def _prove_work(self, variant: Variant, workload: Workload, slots: int) -> Work:
        """Fill the slots, and see that what is stored and loaded is what was to be."""
        what = f"{variant.name}, {workload.name}"
        self._stub.reset()
        await variant.block("save", workload, slots, slots)
        saved = self._stub.counts()
        body = self._stub.stored(variant.key(0))
        require(saved.requests == {"PutObject": slots}, f"{what}: {dict(saved.requests)} to save")
        require(saved.checksums == slots, f"{what}: a body was sent without a checksum")
        require(saved.body_in == slots * len(body), f"{what}: bodies of different sizes")
        document = json.loads(body)
        content = {
            "data": document["data"],
            "appData": document.get("appData", document.get("app_data")),
        }
        require(content == workload.content, f"{what}: something else is stored")
        # Not the first save, which may do more.
        self._stub.reset()
        await variant.block("save", workload, 1, 1)
        loaded = await variant.load_content(workload)
        counts = self._stub.counts()
        require(loaded == workload.content, f"{what}: something else is loaded")
        return Work(len(body), counts.continues, counts.checked_reads)

    async def _proven_block(
        self, variant: Variant, operation: Operation, workload: Workload, cell: Cell, work: Work
    ) -> Block:
        """Measure a block, and see that it was the requests and bytes that it should be."""
        self._stub.reset()
        block = await variant.block(operation, workload, cell.count, cell.concurrency)
        counts = self._stub.counts()
        what = f"{variant.name}, {operation}, {cell.name}"
        expected = {"PutObject" if operation == "save" else "GetObject": cell.count}
        moved = counts.body_in if operation == "save" else counts.body_out
        require(
            counts.requests == expected and not counts.refused,
            f"{what}: {dict(counts.requests)} instead of {expected}, {counts.refused} refused",
        )
        require(
            moved == cell.count * work.stored,
            f"{what}: {moved:,} bytes instead of {cell.count} times {work.stored:,}",
        )
        if operation == "save":
            require(counts.checksums == cell.count, f"{what}: a body without a checksum")
        if variant.name in {SNAPSTORE, GENERIC}:
            # Now and then a connection dies, and then the slow path is the right one.
            usual = 0 if variant.name == SNAPSTORE else cell.count
            unusual = abs(counts.by_sdk - usual)
            require(unusual <= cell.count / 20, f"{what}: {counts.by_sdk} by the slow path")
        require(block.count == cell.count == len(block.latencies), f"{what}: some were left out")
        return block

    # The strictness check

    def _measure_checks(self) -> None:
        """What encoding with the check costs more than the same without it."""
        for name in dict.fromkeys(cell.workload for cell in self._plan.cells):
            workload = self._workloads[name]
            repeats = max(1, 2_000_000 // workload.size)
            strict = partial(encode_snapshot, workload.snapshot, max_bytes=MAX_BYTES)
            plain = partial(msgspec.json.encode, workload.document)
            costs = [
                _cpu_of(strict, repeats) - _cpu_of(plain, repeats)
                for _ in range(max(self._plan.rounds, 3))
            ]
            self.results.checks[name] = statistics.median(costs)

    # Large snapshots

    async def _measure_stalls(self, variants: Mapping[str, Variant]) -> None:
        here = {name: peer for name, peer in variants.items() if isinstance(peer, Peer)}
        for size in self._plan.stall_sizes:
            self._say(f"event loop and memory, {size}")
            workload = self._workloads[size]
            for peer in here.values():
                await self._prove_work(peer, workload, 1)
            stalls: dict[Operation, dict[str, Stall]] = {
                operation: {name: Stall([], 0) for name in here} for operation in OPERATIONS
            }
            plain = self.results.plain_encodes[size] = []
            for order in self._turns(list(here)):
                plain.append(_wall_of(partial(msgspec.json.encode, workload.document)))
                for name in order:
                    for operation, call in _calls(here[name], workload).items():
                        stalls[operation][name].stalls.append(await longest_stall(call))
            for name, peer in here.items():
                for operation, call in _calls(peer, workload).items():
                    stalls[operation][name].memory = await peak_memory(call)
            self.results.stalls[size] = stalls

    # Listing

    async def _measure_listing(self, variants: Mapping[str, Variant]) -> None:
        count = self._plan.listed
        self._say(f"listing {count:,} ids")
        location = SnapshotLocation.agent("listed", AGENT)
        prefix = f"listed/scopes/agent/{AGENT}/snapshots/immutable_history/"
        calls: dict[str, Callable[[int], Any]] = {}
        for name, variant in variants.items():
            if isinstance(variant, Snapstore):
                calls[name] = _listing_by(variant, location)
            elif name == BOTOCORE and isinstance(variant, Botocore):
                calls[name] = _listing_by_paginator(variant, f"{variant.prefix}/{prefix}")
        self._stub.clear()
        for name, call in calls.items():
            self._stub.fill(f"{variants[name].prefix}/{prefix}", count)
            found = await call(0)
            require(len(set(found)) == count, f"{name}: not {count:,} ids")
            require(found == sorted(found), f"{name}: not in order")
        self.results.listing = {name: Series() for name in calls}
        for order in self._turns(list(calls)):
            for name in order:
                self._stub.reset()
                block = await measure_block(calls[name], 1, 1)
                pages = self._stub.counts().requests
                expected = {"ListObjectsV2": -(-count // 1000)}
                require(pages == expected, f"{name}: {dict(pages)} instead of {expected}")
                self.results.listing[name].cpu.append(block.cpu)
                self.results.listing[name].wall.append(block.wall)
        self._stub.clear()

    # Deleting

    async def _measure_deleting(self, variants: Mapping[str, Variant]) -> None:
        count = self._plan.deleted
        self._say(f"deleting {count:,} objects")
        calls: dict[str, Callable[[], Any]] = {}
        prefixes: dict[str, str] = {}
        session = "deleted"
        for name, variant in variants.items():
            if isinstance(variant, Snapstore):
                storage = variant.storage
                calls[name] = partial(storage.delete_session, session_id=session)
            elif isinstance(variant, StrandsTypeScript):
                calls[name] = partial(variant.delete_session, session)
            elif isinstance(variant, StrandsPython):
                calls[name] = variant.manager(session).delete_session
            else:
                continue
            prefixes[name] = variant.key(0).replace("session-0", session).rpartition("/")[0]
        self.results.deleting = {name: Series() for name in calls}
        pause = self._plan.delete_time
        with self._knobs(service_time=pause, delete_time=pause):
            for number, order in enumerate(self._turns(list(calls))):
                for name in order:
                    if name == PYTHON and number >= self._plan.slow_rounds:
                        continue
                    block = await self._proven_delete(calls[name], prefixes[name], name)
                    self.results.deleting[name].wall.append(block.wall)
            call = calls[SNAPSTORE]

            async def delete() -> None:
                await call()

            self._stub.fill(f"{prefixes[SNAPSTORE]}/immutable_history/", count)
            self.results.delete_memory = await peak_memory(delete)

    async def _proven_delete(self, call: Callable[[], Any], prefix: str, name: str) -> Block:
        count = self._plan.deleted
        self._stub.clear()
        self._stub.fill(f"{prefix}/immutable_history/", count)
        self._stub.reset()
        block = await measure_block(lambda _: call(), 1, 1)
        counts = self._stub.counts()
        require(counts.deleted == count, f"{name}: {counts.deleted:,} of {count:,} deleted")
        one_by_one = {"DeleteObject": count}
        in_batches = {"DeleteObjects": -(-count // 1000)}
        # snapstore keeps one object back until there is no other page.
        one_kept_back = {"DeleteObjects": count // 1000 + 1}
        asked = {key: n for key, n in counts.requests.items() if key.startswith("Delete")}
        require(
            asked in (one_by_one, in_batches, one_kept_back),
            f"{name}: {asked} for {count:,} objects",
        )
        return block


def _calls(peer: Peer, workload: Workload) -> dict[Operation, Callable[[], Any]]:
    return {"save": partial(peer.save, 0, workload), "load": partial(peer.load, 0)}


def _listing_by(peer: Snapstore, location: SnapshotLocation) -> Callable[[int], Any]:
    return lambda _: peer.storage.list_snapshot_ids(location=location)


def _listing_by_paginator(peer: Botocore, prefix: str) -> Callable[[int], Any]:
    return lambda _: peer.list_keys(prefix)


def _wall_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    del result  # to let go of it is not a part of it
    return seconds


def _cpu_of(call: Callable[[], object], repeats: int) -> float:
    gc.collect()
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats
