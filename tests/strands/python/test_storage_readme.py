"""The README's program of two workers is run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent.parent.parent / "README.md"


def test_the_two_workers_of_the_readme_run(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    [program] = [
        block for block in blocks if "SnapstoreSessionManager" in block and "Echo" in block
    ]
    path = tmp_path / "two_workers.py"
    path.write_text(program)

    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert re.search(
        r"one: 1 messages so far\s+two: .*another writer came first\s+two: 3 messages so far",
        done.stdout,
    )
