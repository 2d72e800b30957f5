"""README.md and docs/: their code runs, their links work, and no public name is missing."""

import re
import subprocess
from pathlib import Path

import pytest

import snapstore

pytest_plugins = ["pytester"]

PACKAGE = Path(snapstore.__file__).parent
ROOT = Path(__file__).parents[2]
LANGUAGES = {"console", "python", "sh", "text", "typescript"}
TESTS = ("same as ", "passes", "prints ", "takes turns with the TypeScript below")


def test_python_blocks_run(page, run_page):
    run_page(page)


@pytest.mark.console
@pytest.mark.seaweedfs  # what is printed tells what this server can do
def test_commands_print_what_the_page_says(page, run_console):
    for said, printed in run_console(page):
        assert in_order(printed) == in_order(said)


def in_order(text):
    """What is printed, with events sorted: several sessions are worked on at a time."""
    lines = text.splitlines()
    return sorted(line for line in lines if "\t" in line), [one for one in lines if "\t" not in one]


def test_readme_example_loads_what_it_saved(run_page):
    names = run_page(ROOT / "README.md")

    assert names["snapshot"] == names["earlier"]
    assert names["ids"] == [names["saved"].snapshot_id]


def test_blocks_are_in_known_languages_with_known_tests(every_block):
    for block in every_block:
        if block.language.startswith("{"):
            continue  # Sphinx's own, which `nox -s docs` checks
        assert block.language in LANGUAGES, block
        assert not block.test or block.test.startswith(TESTS), block


@pytest.mark.blocks("same as ")
def test_a_block_is_the_file_it_names(block):
    assert block.text == (ROOT / block.test.removeprefix("same as ")).read_text()


@pytest.mark.blocks("passes")
@pytest.mark.seaweedfs  # it starts a server of its own
def test_a_block_is_a_passing_test_module(block, pytester):
    pytester.makepyfile(block.text)
    outcome = pytester.runpytest_subprocess(
        *("-p", "no:anyio", "-o", "asyncio_mode=strict", "-W", "error"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    )

    passed = outcome.parseoutcomes()
    assert set(passed) == {"passed"}
    if expected := re.fullmatch(r"passes with (\d+) tests", block.test):
        assert passed == {"passed": int(expected[1])}


def test_shell_blocks_name_what_there_is(every_block):
    shell = [block for block in every_block if block.language == "sh"]
    pyproject = (ROOT / "pyproject.toml").read_text()
    extras = pyproject[pyproject.index("[project.optional-dependencies]") :]
    noxfile = (ROOT / "noxfile.py").read_text()
    assert shell
    for block in shell:
        checked = subprocess.run(["bash", "-n"], input=block.text, text=True, check=False)
        assert checked.returncode == 0, block
        for names in re.findall(r"'\.\[([a-z,]+)\]'", block.text):
            for name in names.split(","):
                assert re.search(rf"^{name} = \[", extras, re.MULTILINE), (block, name)
        for name in re.findall(r"\bnox -s ([a-z]+)", block.text):
            assert f"def {name}(session" in noxfile, (block, name)


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_lead_somewhere(file):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", (ROOT / file).read_text()):
        path, _, anchor = target.partition("#")
        linked = ROOT / (path or file)
        assert linked.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings
            }


def test_tests_and_files_named_in_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named
    assert {name for name in named if f"def {name}(" not in tests} == set()
    for name in re.findall(r"`((?:snapstore|stores|storage|tests)/[\w/.]*)`", text):
        # The package may be installed elsewhere.
        places = (ROOT / name, PACKAGE.parent / name, PACKAGE / name)
        assert any(place.exists() for place in places), name


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_name_of_snapstore_is_in_the_api_reference():
    page = (ROOT / "docs" / "api" / "snapstore.md").read_text()
    missing = {name for name in snapstore.__all__ if not re.search(rf"\b{name}\b", page)}
    assert missing <= {"__version__"}
