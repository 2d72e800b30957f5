"""The code blocks of README.md and docs/: where they are, and how a page is run.

The Python blocks of a page run one after the other in one namespace, with `await` at the top level,
on a real S3 server. A comment in the line before a block asks for another test of it:

- `<!-- test: same as <path> -->`: it is the text of a file that has tests of its own.
- `<!-- test: passes -->`, `<!-- test: passes with 2 tests -->`: it is a test module.
- `<!-- test: prints <pattern> -->`: it is a program.
- `<!-- test: takes turns with the TypeScript below -->`
"""

import ast
import asyncio
import inspect
import re
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from snapstore.testing.server import create_bucket

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(
    r"^(?:<!-- test: (?P<test>.+) -->\n)?"
    r"```(?P<language>\S*).*\n(?P<text>(?:.*\n)*?)```$",
    re.MULTILINE,
)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    test: str
    text: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page):
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, found.start("text")),
            found["language"],
            found["test"] or "",
            found["text"],
        )
        for found in FENCE.finditer(text)
    ]


def needs_strands(page):
    return page.name.startswith("strands")


def pytest_generate_tests(metafunc):
    """Give a test each page, or each block whose comment begins with a word."""
    of_strands = metafunc.definition.path.parent.name == "strands"
    pages = [page for page in PAGES if needs_strands(page) is of_strands]
    blocks = [block for page in pages for block in blocks_of(page)]
    if "page" in metafunc.fixturenames:
        plain = {block.page for block in blocks if block.language == "python" and not block.test}
        metafunc.parametrize("page", sorted(plain), ids=lambda page: str(page.relative_to(ROOT)))
    if "block" in metafunc.fixturenames:
        word = metafunc.definition.get_closest_marker("blocks").args[0]
        chosen = [block for block in blocks if block.test.startswith(word)]
        metafunc.parametrize("block", chosen, ids=str)


def pytest_configure(config):
    config.addinivalue_line("markers", "blocks(word): the blocks whose comment begins with it")


@pytest.fixture(scope="session")
def every_block():
    return [block for page in PAGES for block in blocks_of(page)]


@pytest.fixture
def run_page(s3_server, tmp_path, monkeypatch):
    """Run the plain Python blocks of a page; returns their namespace."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(page):
        bucket = f"page-{uuid.uuid4().hex}"
        create_bucket(s3_server, bucket)
        names = {"__name__": "page"}
        with asyncio.Runner() as runner:
            for block in blocks_of(page):
                if block.language != "python" or block.test:
                    continue
                source = "\n" * block.line + block.text.replace('"my-bucket"', repr(bucket))
                code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                result = eval(code, names)
                if code.co_flags & inspect.CO_COROUTINE:
                    runner.run(result)
        return names

    return run
