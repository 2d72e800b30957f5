"""The results in words, as JSON, as a Markdown page and as a chart."""

from __future__ import annotations

import importlib
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.measure import Operation, ratio
from benchmarks.scenarios import BOTOCORE, OPERATIONS, SNAPSTORE, Results, Series, Table

CHARTED = (targets.KB5_32, targets.KB100_32, targets.TLS_1)


def write_all(results: Results, folder: Path) -> None:
    """Write `results.json`, `results.md` and `results.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(_plain(results), indent=1) + "\n")
    (folder / "results.md").write_text("\n".join(page(results)) + "\n")
    _draw(results, folder / "results.png")


def page(results: Results) -> Iterator[str]:
    """The lines of the Markdown page."""
    yield "# What snapstore costs"
    yield ""
    for name, value in results.about.items():
        yield f"- {name}: {value}"
    yield ""
    yield (
        "CPU is that of the client process, with all its threads. Ratios are taken round by round, "
        "between blocks that take turns; shown are their median and their minimum. obstore and the "
        "bare aiohttp use snapstore's codec with its check; aiobotocore is used with msgspec, and "
        "the Strands SDKs with their own JSON, which check nothing."
    )
    yield ""
    yield "## Targets"
    yield ""
    yield from markdown_table(
        ["", "what", "target", "median", "min", ""],
        [
            [
                str(row.number),
                row.what,
                row.bound,
                "" if row.found is None else row.shown(row.found.median),
                "" if row.found is None else row.shown(row.found.minimum),
                row.verdict,
            ]
            for row in targets.rows(results)
        ],
    )
    yield ""
    yield "## The strictness check"
    yield ""
    yield from checks(results)
    for name, operations in results.cells.items():
        yield ""
        yield f"## {name}"
        yield ""
        yield from _cell(operations)
    yield from _large(results)
    yield from _sessions(results)
    yield from _work(results)


def checks(results: Results) -> Iterator[str]:
    """A line for each size: what the check costs, and its share of a save."""
    for size, seconds in results.checks.items():
        shares: list[str] = []
        for cell in targets.CELLS:
            if cell.workload != size or cell.name not in results.cells:
                continue
            save = results.cells[cell.name]["save"][SNAPSTORE]
            share = seconds / statistics.median(save.cpu)
            shares.append(f"{share:.0%} of a save ({cell.name})")
        yield f"- {size}: {seconds * 1e6:,.0f} µs of CPU; {'; '.join(shares)}"


def _cell(operations: dict[Operation, Table]) -> Iterator[str]:
    head = ["", *(f"{operation} {what}" for operation in operations for what in _COLUMNS)]
    names = list(next(iter(operations.values())))
    lines: list[list[str]] = []
    for name in names:
        line = [name]
        for table in operations.values():
            line += _figures(table[name], table[BOTOCORE])
        lines.append(line)
    yield from markdown_table(head, lines)


_COLUMNS = ("CPU µs", "÷ aiobotocore", "min", "p50 ms", "p99 ms", "a second")


def _figures(series: Series, base: Series) -> list[str]:
    compared = ratio(series.cpu, base.cpu)
    return [
        f"{statistics.median(series.cpu) * 1e6:,.0f}",
        f"{compared.median:.2f}",
        f"{compared.minimum:.2f}",
        f"{series.percentile(0.50) * 1e3:.1f}",
        f"{series.percentile(0.99) * 1e3:.1f}",
        f"{1 / statistics.median(series.wall):,.0f}",
    ]


def _large(results: Results) -> Iterator[str]:
    for size, operations in results.stalls.items():
        yield ""
        yield f"## Event loop and memory, {size}"
        yield ""
        yield "The longest stall of the loop during one operation, and what Python held more."
        yield ""
        head = [
            "",
            *(f"{one} {what}" for one in operations for what in ("stall", "worst", "memory")),
        ]
        lines: list[list[str]] = []
        for name in next(iter(operations.values())):
            line = [name]
            for table in operations.values():
                stall = table[name]
                line += [
                    f"{statistics.median(stall.stalls) * 1e3:.1f} ms",
                    f"{max(stall.stalls) * 1e3:.1f} ms",
                    f"{stall.memory / 1e6:.1f} MB",
                ]
            lines.append(line)
        yield from markdown_table(head, lines)


def _sessions(results: Results) -> Iterator[str]:
    yield ""
    yield f"## Listing {results.about['listed']} ids"
    yield ""
    yield from markdown_table(
        ["", "CPU s", "s"],
        [
            [name, f"{statistics.median(one.cpu):.2f}", f"{statistics.median(one.wall):.2f}"]
            for name, one in results.listing.items()
        ],
    )
    yield ""
    yield f"## Deleting {results.about['deleted']}"
    yield ""
    yield from markdown_table(
        ["", "s"],
        [[name, f"{statistics.median(one.wall):.2f}"] for name, one in results.deleting.items()],
    )
    yield ""
    yield f"snapstore held {results.delete_memory / 1e6:.1f} MB more at the worst time."


def _work(results: Results) -> Iterator[str]:
    yield ""
    yield "## The same work"
    yield ""
    yield (
        "Each block's requests and bytes are counted by the stub and must be exact, and what is "
        "stored and loaded must be the snapshot. Every body is sent with a checksum."
    )
    yield ""
    head = ["", "size", "bytes stored", "waits for 100 Continue", "asks for checksum when reading"]
    yield from markdown_table(
        head,
        [
            [
                name,
                size,
                f"{work.stored:,}",
                "yes" if work.continues else "no",
                "yes" if work.checked_reads else "no",
            ]
            for size, works in results.work.items()
            for name, work in works.items()
        ],
    )


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table that reads well as text, too."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rule = ["-" * max(width, 3) for width in widths]
    for line in (head, rule, *lines):
        cells = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield f"| {' | '.join(cells)} |"


def _plain(results: Results) -> dict[str, Any]:
    """What is written as JSON: all figures, but of single operations only percentiles."""
    plain = asdict(results)
    tables = [table for cell in plain["cells"].values() for table in cell.values()]
    for table in (*tables, plain["listing"], plain["deleting"]):
        for name in table:
            series = Series(**table[name])
            table[name] = {"cpu": series.cpu, "wall": series.wall}
            if series.latencies:
                table[name]["p50"] = series.percentile(0.50)
                table[name]["p99"] = series.percentile(0.99)
    plain["targets"] = [
        {"verdict": row.verdict, "bound": row.bound, **asdict(row)} for row in targets.rows(results)
    ]
    return plain


def _draw(results: Results, path: Path) -> None:
    """Bars of CPU relative to plain aiobotocore."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    names = [*results.cells[CHARTED[0].name]["save"]]
    figure, panels = pyplot.subplots(1, len(CHARTED), figsize=(14, 4.5), sharey=True)
    for panel, cell in zip(panels, CHARTED, strict=True):
        for shift, operation in zip((-0.2, 0.2), OPERATIONS, strict=True):
            table = results.cells[cell.name][operation]
            values = [ratio(table[name].cpu, table[BOTOCORE].cpu).median for name in names]
            places = [number + shift for number in range(len(names))]
            bars = panel.barh(places, values, height=0.38, label=operation)
            panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        panel.set_title(cell.name, fontsize=10)
        panel.axvline(1, color="grey", linewidth=0.8)
        panel.margins(x=0.15)
        panel.set_xlabel("CPU per operation ÷ plain aiobotocore")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper center", ncols=2)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
