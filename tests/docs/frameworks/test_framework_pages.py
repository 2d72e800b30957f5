"""The pages on frameworks: their code runs with the newest release of each."""

import re

import pytest

from claude_model import running_model


def test_python_blocks_run(page, run_page, tmp_path_factory, monkeypatch):
    with running_model(tmp_path_factory.mktemp("home")) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        run_page(page)


@pytest.mark.blocks("prints ")
def test_a_program_prints_what_it_should(block, output_of):
    assert re.search(block.test.removeprefix("prints "), output_of(block), re.DOTALL)
