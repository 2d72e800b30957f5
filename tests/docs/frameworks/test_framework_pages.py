"""The pages on frameworks: their code runs with the newest release of each."""

import os
import re
import subprocess
import sys

import pytest

from claude_model import running_model


def test_python_blocks_run(page, run_page, tmp_path_factory, monkeypatch):
    with running_model(tmp_path_factory.mktemp("home")) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        run_page(page)


@pytest.mark.blocks("prints ")
def test_a_program_prints_what_it_should(block, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(block.text)
    ended = subprocess.run(
        [sys.executable, str(path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ,
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(block.test.removeprefix("prints "), ended.stdout, re.DOTALL)
