"""What a turn and a resume cost with each adapter, beside what its framework's users have instead.

Run it with `nox -s bench`. What is kept in S3 is kept in the stub, which takes 20 ms a request, and
counts. Files and the database are of this machine, and answer at once: their wall time is that
of one host, and no other host sees the files. It fails if a conversation is not resumed as it was,
never for a time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterable
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from benchmarks.contestants import CONTESTANTS
from benchmarks.postgres import running_postgres
from benchmarks.run import processor
from benchmarks.stub import BUCKET, REGION, StubClient, UnequalWorkError, require, running_stub
from benchmarks.talk import Contestant, Places
from benchmarks.workload import WORDS
from snapstore.stores import S3ObjectStore

T = TypeVar("T")

SERVICE_TIME = 0.020
RESULTS = Path(__file__).with_name("results") / "adapters.md"
QUESTION, ANSWER = 40, 400
"""Words."""

PACKAGES = (
    "strands-agents",
    "langgraph",
    "langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-postgres",
    "claude-agent-sdk",
    "openai-agents",
    "pydantic-ai-slim",
    "aiobotocore",
    "boto3",
)
NOTE = (
    "CPU is that of this process, with all its threads, but not that of a database. The part of "
    "the framework itself is in it: the rows in memory show how much that is. A turn is a run of "
    "an agent or a graph; with Pydantic AI it loads the conversation and saves it; for the Claude "
    "Agent SDK it is the append of a question and an answer."
)
COLUMNS = (
    "",
    "kept in",
    "requests a turn",
    "KB sent a turn",
    "KB stored",
    "CPU ms a turn",
    "wall ms a turn",
    "requests to resume",
    "CPU ms to resume",
    "wall ms to resume",
)


class Plan(NamedTuple):
    """How much is done.

    Attributes:
        turns: How long a conversation is.
        warm_up: So many turns are not counted.
        resumes: How often it is resumed.
    """

    turns: int
    warm_up: int
    resumes: int


FULL, SHORT = Plan(30, 10, 5), Plan(3, 1, 1)


class Cost(NamedTuple):
    """What something has cost.

    Attributes:
        requests: Requests to S3.
        sent: Bytes of objects sent to S3.
        cpu: Seconds of CPU of this process, with all its threads.
        wall: Seconds.
    """

    requests: float
    sent: float
    cpu: float
    wall: float


class Row(NamedTuple):
    """What a contestant costs; `None` where there is nothing to be resumed or stored."""

    contestant: Contestant
    turn: Cost
    stored: int | None
    resume: Cost | None


async def measured(stub: StubClient, work: Awaitable[T]) -> tuple[Cost, T]:
    """Await something, and tell what it cost."""
    stub.reset()
    cpu, wall = time.process_time(), time.perf_counter()
    result = await work
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    counts = stub.counts()
    return Cost(sum(counts.requests.values()), counts.body_in, cpu, wall), result


def median_of(costs: list[Cost]) -> Cost:
    """The median of each figure."""
    return Cost(*(statistics.median(figures) for figures in zip(*costs, strict=True)))


async def compare(stub: StubClient, contestant: Contestant, places: Places, plan: Plan) -> Row:
    """Run a conversation, and resume it.

    Raises:
        UnequalWorkError: It was not resumed as it was.
    """
    chosen = random.Random(plan.turns)  # noqa: S311 -- text
    said = [
        " ".join(chosen.choices(WORDS, k=words))
        for _ in range(plan.turns)
        for words in (QUESTION, ANSWER)
    ]
    different = f"{contestant.name} has not resumed what was said"
    before = await bytes_in(contestant.place, places)
    costs: list[Cost] = []
    async with AsyncExitStack() as stack:
        talk = contestant.make(places)
        await talk.start(stack)
        gc.collect()  # what an earlier one left behind is not for this one
        for question, answer in zip(said[::2], said[1::2], strict=True):
            costs.append((await measured(stub, talk.turn(question, answer)))[0])
        await talk.tidy()
        if contestant.place == "memory":
            require(await talk.resume() == said, different)
            return Row(contestant, median_of(costs[plan.warm_up :]), None, None)
    again: list[Cost] = []
    gc.collect()
    for _ in range(plan.resumes):
        async with AsyncExitStack() as stack:
            talk = contestant.make(places)
            await talk.start(stack)
            cost, found = await measured(stub, talk.resume())
            again.append(cost)
            require(found == said, different)
    stored = await bytes_in(contestant.place, places) - before
    return Row(contestant, median_of(costs[plan.warm_up :]), stored, median_of(again))


async def bytes_in(place: str, places: Places) -> int:
    """How many bytes are stored where a contestant stores its own."""
    match place:
        case "S3":
            store = S3ObjectStore(BUCKET)
            await store.open()
            try:
                async with aclosing(store.scan_details(f"{places.prefix}/")) as pages:
                    return sum([found.size async for page in pages for found in page])
            finally:
                await store.aclose()
        case "file":
            return sum(
                one.stat().st_size for one in places.file.parent.glob(f"{places.file.name}*")
            )
        case "database":
            psycopg: Any = importlib.import_module("psycopg")
            async with await psycopg.AsyncConnection.connect(places.database) as connection:
                tables = await connection.execute(
                    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class "
                    "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                )
                return int((await tables.fetchone())[0])
        case _:
            return 0


def table_of(rows: Iterable[Row]) -> list[str]:
    """The lines of a Markdown table."""
    lines: list[tuple[str, ...]] = [COLUMNS, ("---", "---", *("---:" for _ in COLUMNS[2:]))]
    framework = ""
    for row in rows:
        if row.contestant.framework != framework:
            framework = row.contestant.framework
            lines.append((f"**{framework}**", *("" for _ in COLUMNS[1:])))
        in_s3, turn, resume = row.contestant.place == "S3", row.turn, row.resume
        lines.append(
            (
                row.contestant.name,
                row.contestant.place,
                f"{turn.requests:.0f}" if in_s3 else "",
                f"{turn.sent / 1000:.1f}" if in_s3 else "",
                "" if row.stored is None else f"{row.stored / 1000:,.0f}",
                f"{turn.cpu * 1000:.1f}",
                f"{turn.wall * 1000:.0f}",
                "" if resume is None or not in_s3 else f"{resume.requests:.0f}",
                "" if resume is None else f"{resume.cpu * 1000:.1f}",
                "" if resume is None else f"{resume.wall * 1000:.0f}",
            )
        )
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def page_of(rows: Iterable[Row], plan: Plan, load: list[float], *, postgres: bool) -> list[str]:
    """The lines of the page of results."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    words, counted = QUESTION + ANSWER, plan.turns - plan.warm_up
    service_time = f"{SERVICE_TIME * 1000:.0f} ms"
    return [
        "# What the adapters cost",
        "",
        f"- date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- machine: {processor()}, {os.cpu_count()} cores",
        f"- Python {platform.python_version()}, snapstore {version('snapstore')}, {versions}",
        f"- a conversation of {plan.turns} turns of {words} words; the model answers at once",
        f"- load before and after: {' and '.join(f'{one:.1f}' for one in load)}",
        f"- medians of the last {counted} turns, and of {plan.resumes} resumes",
        f"- S3: a stub that takes {service_time} a request",
        "- files and the database: of this machine, and nothing is added to their time",
        "- PostgreSQL: of this machine" if postgres else "- PostgreSQL: not installed; left out",
        "",
        NOTE,
        "",
        *table_of(rows),
    ]


async def main(stub: StubClient, plan: Plan, database: str | None) -> list[str]:
    """Measure them all; returns the page of results."""
    stub.set_knobs(service_time=SERVICE_TIME, delete_time=SERVICE_TIME)
    rows: list[Row] = []
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as directory:
        for number, contestant in enumerate(CONTESTANTS):
            if contestant.place == "database" and database is None:
                continue
            places = Places(f"{number}", Path(directory) / f"{number}.db", database)
            start = time.perf_counter()
            rows.append(await compare(stub, contestant, places, plan))
            seconds = time.perf_counter() - start
            print(f"{seconds:6.1f} s  {contestant.name}", file=sys.stderr, flush=True)
    load.append(os.getloadavg()[0])
    return page_of(rows, plan, load, postgres=database is not None)


def prepare_environment(endpoint: str) -> None:
    """Where S3 is, for all of them; nothing of the user's is used."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE",
        AWS_SECRET_ACCESS_KEY="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",  # noqa: S106 -- of Amazon's manual
        AWS_REGION=REGION,
        AWS_DEFAULT_REGION=REGION,
        AWS_ENDPOINT_URL=endpoint,
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks.adapters")
    parser.add_argument("--short", action="store_true", help="a little of everything, for CI")
    short = parser.parse_args().short
    with running_stub() as running, running_postgres() as postgres_url:
        prepare_environment(running.endpoints["http"])
        try:
            lines = asyncio.run(main(running, SHORT if short else FULL, postgres_url))
        except UnequalWorkError as error:
            sys.exit(str(error))
    print("\n".join(lines))
    if not short:
        RESULTS.write_text("\n".join(lines) + "\n")
