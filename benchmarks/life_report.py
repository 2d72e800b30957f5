"""Lives in words, as a Markdown page and as a chart."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.life_peers import Kind
from benchmarks.life_script import Lived, Script, Step
from benchmarks.report import markdown_table
from benchmarks.targets import LIFE, verdict

SNAPSTORE = "snapstore"
BOTOCORE = "aiobotocore"
PYTHON = "Strands Python"
TYPESCRIPT = "Strands TypeScript"
SAVER = "LangGraph, SnapstoreSaver"
SQLITE = "LangGraph, AsyncSqliteSaver"
POSTGRES = "LangGraph, AsyncPostgresSaver"
EVERYBODY = (SNAPSTORE, BOTOCORE, PYTHON, TYPESCRIPT, SAVER, SQLITE, POSTGRES)

COLOURS = {
    SNAPSTORE: "#c1121f",
    BOTOCORE: "#8d99ae",
    PYTHON: "#1d6fa5",
    TYPESCRIPT: "#2a9d8f",
    SAVER: "#e07a1f",
    SQLITE: "#7b5ea7",
    POSTGRES: "#5c4033",
}
NONE = "-"
"""Stands for what somebody can't do, or what can't be counted."""


@dataclass(frozen=True)
class Results:
    """All lives of one run.

    Attributes:
        about: Machine, versions and the like.
        script: What happened in them.
        slow_script: What happened in them at 20 ms a request.
        lived: The lives, by name.
    """

    about: dict[str, str]
    script: Script
    slow_script: Script
    lived: dict[str, Lived]


def write_all(results: Results, folder: Path) -> None:
    """Write `life.md` and `life.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "life.md").write_text("\n".join(page(results)) + "\n")
    _draw(results, folder / "life.png")


def page(results: Results) -> Iterator[str]:
    """The lines of the Markdown page."""
    script, lived = results.script, results.lived
    size = next(iter(lived.values())).size
    yield "# What a life costs"
    yield ""
    for name, value in results.about.items():
        yield f"- {name}: {value}"
    yield ""
    yield (
        f"A conversation with tools of {script.turns} turns, which ends at {size / 1e6:.2f} MB of "
        "compact JSON. Each turn is saved in history and as latest, ten times another worker goes "
        f"on from latest, and three times the agent goes back {script.turns * 6 // 100} turns. "
        "What is loaded is compared with what was saved."
    )
    yield ""
    yield (
        "CPU is that of the client process; a database's own is not in it. Bytes and requests are "
        "those that the stub of S3 counted. Times are at 20 ms a request: of the same life with "
        f"every {results.slow_script.every}th save, times {results.slow_script.every}. LangGraph's "
        "checkpointers are called without a graph, once a turn, as one with "
        '`durability="exit"` does; their messages are plain JSON as for all. SQLite and '
        "PostgreSQL are on the same machine: their times are without a network."
    )
    missing = [name for name in EVERYBODY if name not in lived]
    if missing:
        yield ""
        yield f"Not measured, since it is not installed: {'; '.join(missing)}."
    yield ""
    yield "![Cost of each turn, and bytes stored](life.png)"
    yield ""
    yield "## Targets"
    yield ""
    yield from markdown_table(["what", "target", "measured", ""], list(_targets(lived)))
    yield ""
    yield "## Saves"
    yield ""
    head = ["", "CPU", "of the last one", "sent", "requests", "time", "stored in the end"]
    yield from markdown_table(head, [_saves(one, results) for one in lived.values()])
    yield ""
    yield "## Resumes and rewinds"
    yield ""
    head = ["", "10 resumes: CPU", "requests", "time", "3 rewinds: CPU", "requests", "time"]
    yield from markdown_table(
        head,
        [[one.name, *_costs(one, "resume"), *_costs(one, "rewind")] for one in lived.values()],
    )
    yield ""
    yield "## Prune and archive"
    yield ""
    unable = [one.name for one in lived.values() if "prune" not in _endings(one)]
    yield (
        "Both leave the newest snapshot, and latest. A prune deletes the others; an archive packs "
        "them, and each can be loaded from it. Both begin with the whole history. PostgreSQL gives "
        f"space back by its vacuum. Without a prune: {'; '.join(unable)}. "
        f"Only {SNAPSTORE} archives."
    )
    yield ""
    head = ["", "CPU", "requests", "time", "stored before", "stored after"]
    yield from markdown_table(
        head,
        [
            [f"{one.name}: {kind}", *_costs(one, kind), *_shrunk(one, kind)]
            for one in lived.values()
            for kind in _endings(one)
        ],
    )


def _targets(lived: dict[str, Lived]) -> Iterator[list[str]]:
    ours = lived[SNAPSTORE]
    archived = _of(ours.steps, "archive")[-1].stored
    for name in (PYTHON, TYPESCRIPT):
        what = f"bytes stored after archive ÷ those of {name}"
        theirs = lived.get(name)
        yield _target(what, 0.01, None if theirs is None else archived / _stored(theirs))
    for name, target in ((PYTHON, 0.25), (TYPESCRIPT, 0.30)):
        what = f"CPU of all saves ÷ that of {name}"
        theirs = lived.get(name)
        found = None if theirs is None else _cpu(ours, "save") / _cpu(theirs, "save")
        yield _target(what, target, found, LIFE)


def _target(what: str, target: float, found: float | None, reason: str = "") -> list[str]:
    if found is None:
        return [what, f"≤ {target:g}", "", "not measured"]
    shown = f"{found:.2f}" if target >= 0.1 else f"{found:.4f}"
    return [what, f"≤ {target:g}", shown, verdict(reason, is_met=found <= target)]


def _saves(one: Lived, results: Results) -> list[str]:
    saves = _of(one.steps, "save")
    last = statistics.median(save.cpu for save in saves[-10:])
    slow = [save.wall for save in _of(one.slow_steps, "save")]
    time = sum(slow) * results.slow_script.every or sum(save.wall for save in saves)
    return [
        one.name,
        f"{_cpu(one, 'save'):.2f} s",
        f"{last * 1e3:.1f} ms",
        _megabytes(sum(save.sent for save in saves)) if slow else NONE,
        f"{sum(save.requests for save in saves):,}" if slow else NONE,
        f"{time:.0f} s",
        _megabytes(_stored(one)),
    ]


def _costs(one: Lived, kind: Kind) -> list[str]:
    """CPU, requests and time of all steps of a kind."""
    steps = _of(one.steps, kind)
    times = [step.wall for step in _of(one.slow_steps, kind) or steps]
    requests = sum(step.requests for step in steps)
    return [
        f"{_cpu(one, kind) * 1e3:,.0f} ms",
        f"{requests:,}" if one.slow_steps else NONE,
        f"{sum(times):.2f} s",
    ]


def _shrunk(one: Lived, kind: Kind) -> list[str]:
    return [_megabytes(_stored(one)), _megabytes(_of(one.steps, kind)[-1].stored)]


def _endings(one: Lived) -> list[Kind]:
    kinds: list[Kind] = ["prune", "archive"]
    return [kind for kind in kinds if _of(one.steps, kind)]


def _of(steps: Sequence[Step], kind: Kind) -> list[Step]:
    return [step for step in steps if step.kind == kind]


def _cpu(one: Lived, kind: Kind) -> float:
    return sum(step.cpu for step in _of(one.steps, kind))


def _stored(one: Lived) -> int:
    """Bytes stored after the last turn: history and latest."""
    return _of(one.steps, "resume")[-1].stored


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


# The chart


def _draw(results: Results, path: Path) -> None:
    """The CPU and the bytes sent of the n-th save, and the bytes stored after it."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, panels = pyplot.subplots(1, 3, figsize=(17, 5.5))
    lived = list(results.lived.values())
    on_s3 = [one for one in lived if one.slow_steps]
    _plot(panels[0], "CPU of a save, ms", lived, lambda save: save.cpu * 1e3, smooth=True)
    _plot(panels[1], "Sent by a save, MB", on_s3, lambda save: save.sent / 1e6)
    _mark_rewind(panels[1], results)
    archived = _of(results.lived[SNAPSTORE].steps, "archive")[-1].stored / 1e6
    _plot(panels[2], "Stored, MB", lived, lambda save: save.stored / 1e6, last=archived)
    figure.tight_layout(w_pad=1)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _plot(
    panel: Any,
    title: str,
    lived: Sequence[Lived],
    figure: Callable[[Step], float],
    *,
    smooth: bool = False,
    last: float | None = None,
) -> None:
    """A line for each life, with its name at its end; `last` is where snapstore's archive ends."""
    labels: list[tuple[float, str, str]] = []
    turns = 0
    for one in lived:
        saves = _of(one.steps, "save")
        values = [figure(save) for save in saves]
        if smooth:
            values = [
                statistics.median(values[max(0, n - 12) : n + 13]) for n in range(len(values))
            ]
        numbers = [save.number for save in saves]
        panel.plot(numbers, values, color=COLOURS[one.name], **_LINES.get(one.name, {}))
        labels.append((values[-1], one.name, one.name))
        turns = numbers[-1]
    if last is not None:
        start = max(value for value, name, _ in labels if name == SNAPSTORE)
        arrow = {"arrowstyle": "-|>", "color": COLOURS[SNAPSTORE], "linewidth": 2.6}
        panel.annotate("", xy=(turns * 1.03, last), xytext=(turns, start), arrowprops=arrow)
        labels.append((last, SNAPSTORE, f"snapstore, archived: {last:.1f} MB"))
    panel.set_title(title, loc="left", fontsize=13)
    panel.set_xlabel("turn")
    panel.set_xlim(0, turns * 1.04)
    panel.set_ylim(bottom=0)
    panel.spines[["top", "right"]].set_visible(False)
    _label(panel, labels, turns)


_LINES: dict[str, dict[str, Any]] = {
    SNAPSTORE: {"linewidth": 2.8, "zorder": 3},
    # It lies on snapstore's where both store the same.
    BOTOCORE: {"linewidth": 1.6, "zorder": 4, "linestyle": (0, (4, 3))},
}


def _label(panel: Any, labels: list[tuple[float, str, str]], turns: int) -> None:
    """Names beside the ends of their lines, pushed apart where they would overlap."""
    least = panel.get_ylim()[1] * 0.05
    place = -least
    for value, name, text in sorted(labels):
        place = max(value, place + least)
        ends, places = (turns * 1.04, turns * 1.08), (value, place)
        panel.plot(ends, places, color=COLOURS[name], linewidth=0.8, clip_on=False)
        weight = "bold" if name == SNAPSTORE else "normal"
        style = {"color": COLOURS[name], "va": "center", "fontweight": weight}
        panel.text(turns * 1.09, place, text, **style)


def _mark_rewind(panel: Any, results: Results) -> None:
    """What the notches are."""
    number, earlier = next(iter(results.script.rewinds.items()))
    highest = max(
        save.sent
        for one in results.lived.values()
        for save in _of(one.steps, "save")
        if save.number == number
    )
    panel.annotate(
        f"goes back\n{number - earlier} turns",
        xy=(number, highest / 1e6),
        xytext=(number * 0.6, panel.get_ylim()[1] * 0.55),
        arrowprops={"arrowstyle": "->", "color": "grey"},
        color="grey",
        ha="center",
    )
