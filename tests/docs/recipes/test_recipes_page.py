"""The page on frameworks without an adapter: its programs run with the newest release of each."""

import re

import pytest

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "HAYSTACK_TELEMETRY_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}
"""These frameworks report their use over the network, unless they are told not to."""


def test_python_blocks_run(page, run_page):
    run_page(page)


@pytest.mark.blocks("prints ")
def test_a_program_prints_what_it_should(block, output_of, monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    assert re.search(block.test.removeprefix("prints "), output_of(block), re.DOTALL)


def test_every_framework_has_a_program(every_block):
    """What can't be imported fails here, where a page without its program would not."""
    programs = [block.text for block in every_block if block.page.stem == "recipes"]
    for framework in ("llama_index", "autogen_agentchat", "haystack", "crewai"):
        assert any(f"from {framework}" in program for program in programs), framework
