"""The code blocks of README.md and docs/: where they are, and how a page is run.

The Python blocks of a page run one after the other in one namespace, with `await` at the top level,
on a real S3 server. A comment in the line before a block asks for another test of it:

- `<!-- test: same as <path> -->`: it is the text of a file that has tests of its own.
- `<!-- test: passes -->`, `<!-- test: passes with 2 tests -->`: it is a test module.
- `<!-- test: prints <pattern> -->`: it is a program.
- `<!-- test: takes turns with the TypeScript below -->`

Blocks of `console` are commands and what they print, on what `write_chats` has saved: `snapstore`,
and `echo`. What they print may go to a file.
"""

import ast
import asyncio
import inspect
import os
import re
import shlex
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from snapstore import S3Storage, Snapshot, SnapshotLocation, snapshot_id_at
from snapstore.cli import main
from snapstore.testing.server import create_bucket

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(
    r"^(?:<!-- test: (?P<test>.+) -->\n)?"
    r"```(?P<language>\S*).*\n(?P<text>(?:.*\n)*?)```$",
    re.MULTILINE,
)


COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
"""A command in a `console` block, and what it prints."""


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


FRAMEWORKS = ("claude", "langgraph", "openai-agents", "pydantic-ai")
RECIPES = ("autogen", "crewai", "haystack", "llama-index", "recipes")


def group_of(page):
    """The directory of the tests that a page belongs to: for what it needs to run."""
    if page.name.startswith("strands"):
        return "strands"
    if page.parent.name == "integrations" and page.stem in FRAMEWORKS:
        return "frameworks"
    if page.parent.name == "integrations" and page.stem in RECIPES:
        return "recipes"
    return "docs"


def pytest_generate_tests(metafunc):
    """Give a test each page, or each block whose comment begins with a word."""
    group = metafunc.definition.path.parent.name
    pages = [page for page in PAGES if group_of(page) == group]
    blocks = [block for page in pages for block in blocks_of(page)]
    if "page" in metafunc.fixturenames:
        plain = {block.page for block in blocks if block.language == "python" and not block.test}
        if metafunc.definition.get_closest_marker("console"):
            plain = {block.page for block in blocks if block.language == "console"}
        metafunc.parametrize("page", sorted(plain), ids=lambda page: str(page.relative_to(ROOT)))
    if "block" in metafunc.fixturenames:
        word = metafunc.definition.get_closest_marker("blocks").args[0]
        chosen = [block for block in blocks if block.test.startswith(word)]
        metafunc.parametrize("block", chosen, ids=str)


def pytest_configure(config):
    config.addinivalue_line("markers", "console: the pages with commands")
    config.addinivalue_line("markers", "blocks(word): the blocks whose comment begins with it")


@pytest.fixture(scope="session")
def every_block():
    return [block for page in PAGES for block in blocks_of(page)]


async def write_chats(bucket, options):
    """Save two chats under the prefix `prod`, always the same ones, of some days."""
    texts = [
        ("user", "What is the weather in Zürich?"),
        ("assistant", "-3.5 °C, and snow. Take a coat."),
        ("user", "And tomorrow?"),
        ("assistant", "Sunny, 2 °C."),
    ]
    messages = [{"role": role, "content": [{"text": text}]} for role, text in texts]
    async with S3Storage(bucket, prefix="prod", **options) as storage:
        for chat, turns in (("chat-1", 4), ("chat-2", 2)):
            for turn in range(1, turns + 1):
                time = datetime(2026, 11, 20 + turn, 9, 30, tzinfo=UTC)
                data = {"messages": messages[:turn], "state": {"turn": turn}}
                created = time.isoformat().replace("+00:00", ".000Z")
                await storage.checkpoint(
                    location=SnapshotLocation.agent(chat, "weather"),
                    snapshot=Snapshot("agent", "1.0", created, data, {}),
                    snapshot_id=snapshot_id_at(time),
                )


@pytest.fixture
def run_console(s3_server, tmp_path, monkeypatch, capsys):
    """Run the commands of a page; returns pairs of what was to be printed and what was."""
    environment = {**s3_server.environment(), "AWS_ENDPOINT_URL": s3_server.endpoint_url}
    for name, value in {**environment, "COLUMNS": "96"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("snapstore.cli.printing.is_terminal", lambda: True)

    def run(page):
        bucket = f"page-{uuid.uuid4().hex}"
        create_bucket(s3_server, bucket)
        asyncio.run(write_chats(bucket, s3_server.storage_options))
        pairs = []
        for block in blocks_of(page):
            if block.language != "console":
                continue
            for command, expected in COMMAND.findall(block.text):
                arguments, _, file = command.replace("my-bucket", bucket).partition(" > ")
                program, *words = shlex.split(arguments)
                if program == "echo":
                    sys.stdout.write(f"{' '.join(words)}\n")
                else:
                    assert program == "snapstore"
                    main(words)
                printed = capsys.readouterr()
                if file:
                    Path(file).write_text(printed.out)
                shown = ("" if file else printed.out) + printed.err
                shown = "\n".join(line.rstrip() for line in shown.splitlines())
                pairs.append(
                    (f"$ {command}\n{expected}".rstrip(), f"$ {command}\n{shown}".rstrip())
                )
        return pairs

    return run


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


@pytest.fixture
def output_of(tmp_path):
    """Run a block as a program that must succeed; returns what it has printed."""

    def run(block):
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
        return ended.stdout

    return run
