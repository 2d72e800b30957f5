"""What starting costs: the import, and how long opening a storage stalls the event loop.

Run it with `nox -s bench`. Each figure is taken in a process of its own, since a second import or
client in the same process costs next to nothing; the variants take turns, and the median of their
ratios is what travels. No request is sent.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 7

IMPORT = """
import time
start = time.perf_counter()
from snapstore import *
print(time.perf_counter() - start)
"""

# How late a task wakes that wants to run every millisecond, while `opening` runs.
STALL = """
import asyncio, os, time
os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_REGION="us-east-1")

{setup}

async def heartbeat(gaps):
    while True:
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        gaps.append(time.perf_counter() - start - 0.001)

async def main():
    gaps = []
    task = asyncio.create_task(heartbeat(gaps))
    await asyncio.sleep(0.05)
    gaps.clear()
    start = time.perf_counter()
    {opening}
    await asyncio.sleep(0.005)
    took = time.perf_counter() - start - 0.005
    task.cancel()
    {closing}
    print(max(gaps), took)

asyncio.run(main())
"""

VARIANTS = {
    "client created on the loop, import not counted": STALL.format(
        setup="from aiobotocore.session import get_session",
        opening="context = get_session().create_client('s3'); client = await context.__aenter__()",
        closing="await client.close()",
    ),
    "client created on the loop, import counted": STALL.format(
        setup="",
        opening=(
            "from aiobotocore.session import get_session; "
            "context = get_session().create_client('s3'); client = await context.__aenter__()"
        ),
        closing="await client.close()",
    ),
    "S3Storage.open(), import counted": STALL.format(
        setup="from snapstore import S3Storage; storage = S3Storage('bucket')",
        opening="await storage.open()",
        closing="await storage.aclose()",
    ),
}


def _figures(program: str) -> list[float]:
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return [float(word) for word in run.stdout.split()]


def main() -> None:
    imports = [_figures(IMPORT)[0] for _ in range(ROUNDS)]
    rounds = [
        {name: _figures(program) for name, program in VARIANTS.items()} for _ in range(ROUNDS)
    ]

    print(
        f"from snapstore import *: {statistics.median(imports) * 1000:.0f} ms (median of {ROUNDS})"
    )
    print(f"{'':50} {'longest stall':>14} {'duration':>10}")
    for name in VARIANTS:
        stall = statistics.median(figures[name][0] for figures in rounds) * 1000
        took = statistics.median(figures[name][1] for figures in rounds) * 1000
        print(f"{name:50} {stall:11.1f} ms {took:7.0f} ms")
    ours = "S3Storage.open(), import counted"
    for name in VARIANTS:
        if name != ours:
            ratios = [figures[ours][0] / figures[name][0] for figures in rounds]
            print(f"stall of {ours} ÷ {name}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
