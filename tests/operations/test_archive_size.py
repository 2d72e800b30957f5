"""How small an archive becomes, and how much memory it takes, in a process of its own."""

import asyncio
import json
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "support" / "growing.py"
TIMEOUT = 100
"""Seconds after which a test gives up on what would otherwise hang."""


async def test_a_growing_conversation_becomes_300_times_smaller_in_350_mb_of_memory():
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, stdout=asyncio.subprocess.PIPE
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), TIMEOUT)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    found = json.loads(out)
    assert found["archived"] == found["restored"] == 500
    assert found["largest"] > 1_400_000
    assert found["bytes"] > 300 * found["packed"]
    assert found["memory of archive"] < 350
    assert found["memory of unarchive"] < 350
    assert found["memory of redact"] < 350
    # What came back is compared in the program, and so is what `zstd -d` gives, if it is here.
    assert found["by the program"] in (True, None)
