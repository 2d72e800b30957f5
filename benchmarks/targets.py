"""What snapstore is to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.measure import Operation, Ratio, ratio
from benchmarks.scenarios import (
    BOTOCORE,
    FLOOR,
    GENERIC,
    OBSTORE,
    OPERATIONS,
    PYTHON,
    SNAPSTORE,
    TYPESCRIPT,
    Cell,
    Results,
    Series,
)

KB5_1, KB5_32 = Cell("5 KB", 1, 120), Cell("5 KB", 32, 256)
KB100_1, KB100_32 = Cell("100 KB", 1, 32), Cell("100 KB", 32, 96)
MB2_1, MB2_32 = Cell("2 MB", 1, 6), Cell("2 MB", 32, 32)
TLS_1 = Cell("2 MB", 1, 6, "https")
TLS_32 = Cell("2 MB", 32, 32, "https")
ROUND_TRIP = Cell("5 KB", 1, 30, service_time=0.005, continue_time=0.005, operations=("save",))
THROUGHPUT = Cell(
    "20 KB",
    256,
    1024,
    service_time=0.02,
    only=(SNAPSTORE, GENERIC, FLOOR, OBSTORE, BOTOCORE),
)
CELLS = (
    *(KB5_1, KB5_32, KB100_1, KB100_32, MB2_1, MB2_32),
    *(TLS_1, TLS_32, ROUND_TRIP, THROUGHPUT),
)

REASONS = "../../docs/performance.md"
"""Says why targets are not met; as seen from the folder of the results."""

# Its sections.
CHECK = "the-check"
LIFE = "the-life-of-a-conversation"
REQUEST = "a-request"
SLICES = "large-loads"
ONE_THREAD = "one-thread"
CLIENT = "without-the-fast-path"
IN_TURN = "deleting"


def verdict(reason: str, *, is_met: bool) -> str:
    """Whether a target is met, in words, and where it says why not; `""` if nowhere."""
    if is_met:
        return "met"
    return f"not met: [why]({REASONS}#{reason})" if reason else "NOT MET"


@dataclass(frozen=True)
class Row:
    """A target and what was measured.

    Attributes:
        number: The target it belongs to.
        what: What is measured.
        target: What it is to be.
        at_least: Whether more is better.
        unit: Of the figures; a ratio has none.
        found: The measured figure; `None` where a peer did not take part.
        reason: The section of `docs/performance.md` that says what keeps it from being met; `""`
            where nothing is known to.
    """

    number: int
    what: str
    target: float
    found: Ratio | None
    at_least: bool = False
    unit: str = ""
    reason: str = ""

    @property
    def verdict(self) -> str:
        """Met or not, by the median."""
        if self.found is None:
            return "not measured"
        found, target = self.found.median, self.target
        is_met = found >= target if self.at_least else found <= target
        return verdict(self.reason, is_met=is_met)

    @property
    def bound(self) -> str:
        """The target in words."""
        return f"{'≥' if self.at_least else '≤'} {self.shown(self.target)}"

    def shown(self, value: float) -> str:
        """A figure with its unit."""
        if self.unit:
            return f"{value:.1f} {self.unit}"
        return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def rows(results: Results) -> Iterator[Row]:
    """The table of targets."""
    compare = _Comparison(results)
    for cell, targets in ((KB5_32, (0.22, 0.18)), (KB5_1, (0.28, 0.25))):
        yield from compare.both(1, cell, BOTOCORE, targets, reason=REQUEST)
    yield from compare.both(2, KB100_32, BOTOCORE, (0.50, 0.35), reason=REQUEST)
    for cell in (TLS_1, TLS_32):
        yield compare.without_check(3, cell, 0.80)
        yield compare.cpu(3, cell, "load", BOTOCORE, 0.95, reason=SLICES)
    for cell, target in ((KB5_32, 0.12), (KB100_32, 0.20)):
        yield from compare.both(4, cell, PYTHON, (target, target), reason=REQUEST)
    for cell, target in ((KB5_32, 0.14), (KB100_32, 0.30)):
        yield from compare.both(5, cell, TYPESCRIPT, (target, target), reason=REQUEST)
    for cell in (KB5_1, KB5_32, KB100_1, KB100_32):
        yield from compare.both(6, cell, OBSTORE, (1.0, 1.0), reason=REQUEST)
    for cell in (MB2_1, MB2_32):
        yield compare.cpu(6, cell, "save", OBSTORE, 1.2)
        yield compare.cpu(6, cell, "load", OBSTORE, 1.2, reason=SLICES)
    # What snapstore adds to aiohttp: no reason excuses this.
    yield from compare.both(7, KB5_32, FLOOR, (1.8, 1.8))
    yield compare.listing(8, 0.03)
    yield compare.deleting(9, TYPESCRIPT, 0.35, reason=IN_TURN)
    yield compare.deleting(9, PYTHON, 0.02)
    memory = results.delete_memory / 1e6
    yield Row(9, "delete: memory", 5.0, Ratio(memory, memory), unit="MB")
    yield compare.round_trip(10, 3.0)
    for operation in OPERATIONS:
        yield compare.throughput(11, operation, OBSTORE, 0.9, reason=ONE_THREAD)
        yield compare.throughput(11, operation, BOTOCORE, 3.0)
    for cell in (KB5_1, KB5_32):
        for operation in OPERATIONS:
            yield compare.cpu(12, cell, operation, BOTOCORE, 0.85, ours=GENERIC, reason=CLIENT)
    yield compare.check(13, KB100_32, 0.30, reason=CHECK)
    yield compare.cpu(13, KB100_32, "save", BOTOCORE, 0.58, reason=CHECK)
    yield compare.cpu(13, TLS_1, "save", BOTOCORE, 1.45, reason=CHECK)
    for size in ("2 MB", "10 MB"):
        yield compare.stall(14, size, 3.5)


class _Comparison:
    """Ratios out of the results; a variant that did not take part gives `None`."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def both(
        self,
        number: int,
        cell: Cell,
        peer: str,
        targets: tuple[float, float],
        *,
        reason: str = "",
    ) -> Iterator[Row]:
        for operation, target in zip(OPERATIONS, targets, strict=True):
            yield self.cpu(number, cell, operation, peer, target, reason=reason)

    def cpu(
        self,
        number: int,
        cell: Cell,
        operation: Operation,
        peer: str,
        target: float,
        *,
        ours: str = SNAPSTORE,
        reason: str = "",
    ) -> Row:
        what = f"{cell.name}: {operation}, {ours} ÷ {peer}"
        found = self._ratio(cell, operation, ours, peer, lambda series: series.cpu)
        return Row(number, what, target, found, reason=reason)

    def check(self, number: int, cell: Cell, target: float, *, reason: str) -> Row:
        what = f"{cell.name}: the check's part of a save of {SNAPSTORE}"
        check = self._results.checks[cell.workload]
        save = self._results.cells[cell.name]["save"][SNAPSTORE]
        found = ratio([check] * len(save.cpu), save.cpu)
        return Row(number, what, target, found, reason=reason)

    def stall(self, number: int, size: str, target: float) -> Row:
        what = f"{size}: longest stall of a save of {SNAPSTORE} ÷ msgspec.json.encode"
        if size not in self._results.stalls:
            return Row(number, what, target, None)
        stalls = self._results.stalls[size]["save"][SNAPSTORE].stalls
        return Row(number, what, target, ratio(stalls, self._results.plain_encodes[size]))

    def without_check(self, number: int, cell: Cell, target: float) -> Row:
        what = f"{cell.name}: save, {SNAPSTORE} without its check ÷ {BOTOCORE}"
        check = self._results.checks.get(cell.workload, 0.0)
        table = self._results.cells[cell.name]["save"]
        ours = [cpu - check for cpu in table[SNAPSTORE].cpu]
        return Row(number, what, target, ratio(ours, table[BOTOCORE].cpu))

    def throughput(
        self, number: int, operation: Operation, peer: str, target: float, *, reason: str = ""
    ) -> Row:
        what = f"{THROUGHPUT.name}: {operation}s a second, {SNAPSTORE} ÷ {peer}"
        # Time for one operation, the other way round.
        found = self._ratio(THROUGHPUT, operation, peer, SNAPSTORE, lambda series: series.wall)
        return Row(number, what, target, found, at_least=True, reason=reason)

    def round_trip(self, number: int, target: float) -> Row:
        what = f"{ROUND_TRIP.name}: median save of {SNAPSTORE}, less the request itself"
        series = self._results.cells[ROUND_TRIP.name]["save"][SNAPSTORE]
        over = [
            (value - ROUND_TRIP.service_time) * 1000
            for value in (series.percentile(0.5), min(series.latencies))
        ]
        return Row(number, what, target, Ratio(*over), unit="ms")

    def listing(self, number: int, target: float) -> Row:
        table = self._results.listing
        what = f"listing: {SNAPSTORE} ÷ {BOTOCORE}'s paginator"
        return Row(number, what, target, ratio(table[SNAPSTORE].cpu, table[BOTOCORE].cpu))

    def deleting(self, number: int, peer: str, target: float, *, reason: str = "") -> Row:
        table = self._results.deleting
        found = ratio(table[SNAPSTORE].wall, table[peer].wall) if peer in table else None
        what = f"delete, wall: {SNAPSTORE} ÷ {peer}"
        return Row(number, what, target, found, reason=reason)

    def _ratio(
        self,
        cell: Cell,
        operation: Operation,
        ours: str,
        theirs: str,
        figures: Callable[[Series], list[float]],
    ) -> Ratio | None:
        table = self._results.cells[cell.name][operation]
        if ours not in table or theirs not in table:
            return None
        return ratio(figures(table[ours]), figures(table[theirs]))
