"""The pages on other frameworks: their code runs on them."""

import os
import re
import subprocess
import sys

import pytest


def test_python_blocks_run(page, run_page):
    run_page(page)


@pytest.mark.blocks("prints ")
@pytest.mark.seaweedfs  # it starts a server of its own
def test_a_program_prints_what_it_should(block, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(block.text)
    done = subprocess.run(
        [sys.executable, str(path)],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(block.test.removeprefix("prints "), done.stdout)
