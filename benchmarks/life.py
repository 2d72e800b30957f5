"""A benchmark of a life, not of an operation: a conversation of 500 turns, and what becomes of it.

Run it with `nox -s bench`. Each turn is saved in history and as latest; ten times another worker
goes on from latest; three times the agent goes back 30 turns. In the end the history is pruned to
its newest snapshot, and, as if it had not been, archived but for that one. What somebody can't do
is left out. The benchmark fails where somebody did other work than the others, never for a time.

CPU, bytes and requests are those of all turns, with a stub of S3 that takes no time. Wall time is
that of every tenth save of the same life, at its real size, with a stub that takes 20 ms for each
request, times ten. The lives are lived one after the other.

    conversation.py                                     the turns
    life_peers.py, life_node.py, life_langgraph.py      who lives it
    postgres.py                                         a database for one of them
    life_script.py                                      what happens, and what each step costs
    life_report.py                                      how it is told
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import life_report
from benchmarks.life_langgraph import PostgresLife, SaverLife, SqliteLife
from benchmarks.life_node import StrandsTypeScriptLife
from benchmarks.life_peers import BotocoreLife, Life, SnapstoreLife, StrandsPythonLife
from benchmarks.life_script import Lived, Recorder, Script
from benchmarks.postgres import running_postgres
from benchmarks.run import RESULTS, about_machine, prepare_environment
from benchmarks.stub import StubClient, UnequalWorkError, running_stub

DESCRIPTION = "What a conversation costs from its first turn to its archive, on a stub of S3."
FULL = Script(500)
SHORT = Script(50)
SLOW_SAVES = 50
SERVICE_TIME = 0.020
WARM_UP = Script(10)
PACKAGES = (
    *("aiobotocore", "aiohttp", "msgspec", "strands-agents", "boto3", "langgraph-checkpoint"),
    *("langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres"),
)


def main() -> int:
    arguments = _parser().parse_args()
    script = SHORT if arguments.short else FULL
    slow = replace(script, every=script.turns // SLOW_SAVES)
    start = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {what}", file=sys.stderr, flush=True)

    with (
        tempfile.TemporaryDirectory() as name,
        running_stub() as stub,
        running_postgres() as database,
    ):
        folder = Path(name)
        prepare_environment(stub.certificate)
        lives = _lives(stub, folder, arguments.node, database)
        about = about_machine(PACKAGES, arguments.node)
        load = [os.getloadavg()[0]]
        try:
            lived = asyncio.run(_live_all(lives, stub, script, slow, say))
        except UnequalWorkError as error:
            print(f"not the same work: {error}", file=sys.stderr)
            return 1
        load.append(os.getloadavg()[0])
        about["load before and after"] = " and ".join(f"{one:.1f}" for one in load)
        results = life_report.Results(about, script, slow, {one.name: one for one in lived})
        output = arguments.output or (folder if arguments.short else RESULTS)
        life_report.write_all(results, output)
    for line in life_report.page(results):
        print(line)
    if arguments.short:
        print("A short run proves that the work is the same. Its figures say nothing.")
    say("done")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.life", description=DESCRIPTION)
    parser.add_argument("--short", action="store_true", help="a tenth of the turns, for CI")
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


def _lives(stub: StubClient, folder: Path, node: Path | None, database: str | None) -> list[Life]:
    where = stub.endpoints["http"], stub.certificate
    threads = folder / "sqlite"
    threads.mkdir()
    lives: list[Life] = [
        SnapstoreLife(life_report.SNAPSTORE, *where),
        BotocoreLife(life_report.BOTOCORE, *where),
        StrandsPythonLife(life_report.PYTHON, *where),
    ]
    if node is not None:
        lives.append(StrandsTypeScriptLife(life_report.TYPESCRIPT, *where, node))
    lives += [
        SaverLife(life_report.SAVER, where[0]),
        SqliteLife(life_report.SQLITE, threads),
    ]
    if database is not None:
        lives.append(PostgresLife(life_report.POSTGRES, database))
    return lives


async def _live_all(
    lives: list[Life],
    stub: StubClient,
    script: Script,
    slow: Script,
    say: Callable[[str], None],
) -> list[Lived]:
    stub.set_knobs(verify=False)
    done: list[Lived] = []
    for life in lives:
        say(life.name)
        stub.clear()
        recorder = Recorder(life, stub)
        async with AsyncExitStack() as stack:
            await life.start(stack)
            await recorder.live("warm-up", WARM_UP)
            stub.clear()
            steps = await recorder.live("life", script)
            lived = Lived(life.name, recorder.size, steps + await recorder.end())
            if await life.stored() is None:
                stub.set_knobs(service_time=SERVICE_TIME, delete_time=SERVICE_TIME)
                lived.slow_steps += await recorder.end()
                stub.clear()
                lived.slow_steps += await recorder.live("slow", slow)
                stub.set_knobs(service_time=0.0, delete_time=0.0)
        done.append(lived)
    return done


if __name__ == "__main__":
    sys.exit(main())
