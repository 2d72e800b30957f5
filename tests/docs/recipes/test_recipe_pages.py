"""The pages on frameworks without an adapter: their programs run with the newest of each."""

import re

import pytest

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "HAYSTACK_TELEMETRY_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}
"""These frameworks report their use over the network, unless they are told not to."""


MODULES = {
    "autogen": "autogen_agentchat",
    "crewai": "crewai",
    "haystack": "haystack",
    "llama-index": "llama_index",
}
"""What a program imports, by its page: one that does not would prove nothing."""


def test_python_blocks_run(page, run_page):
    run_page(page)


@pytest.mark.blocks("prints ")
def test_a_program_prints_what_it_should(block, output_of, monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    assert re.search(block.test.removeprefix("prints "), output_of(block), re.DOTALL)


def test_every_framework_has_a_program(every_block):
    programs = {
        block.page.stem: block.text for block in every_block if block.test.startswith("prints ")
    }
    for stem, module in MODULES.items():
        assert f"from {module}." in programs[stem]
