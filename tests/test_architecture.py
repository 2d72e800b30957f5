"""The rooms of the package: what may import what, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import snapstore

ROOT = Path(snapstore.__file__).parent

LADDER = [
    {"snapstore.errors"},
    {"snapstore.ids"},
    {"snapstore.types"},
    {"snapstore.layout", "snapstore.codec", "snapstore.protocols"},
    {"snapstore.objects", "snapstore.objects.base"},
    {"snapstore.objects.retry"},
    {"snapstore.objects.memory", "snapstore.objects.file", "snapstore.objects.s3"},
    {"snapstore.lifecycle", "snapstore.listing", "snapstore.deadline", "snapstore.check"},
    {"snapstore.storage"},
    {"snapstore.backends"},
    {"snapstore"},
    {"snapstore.integrations", "snapstore.testing"},
    {"snapstore.demo"},
    {"snapstore.cli", "snapstore.pytest_plugin"},
]
"""The rungs, lowest first. What is on one imports only from below it, or from its own package."""

PACKAGES = {"snapstore.objects.s3", "snapstore.integrations", "snapstore.testing"}
"""Rooms with several modules, which may import each other."""

HEAVY = {"aiobotocore", "aiohttp", "botocore"}
IMPORTED_WHEN_A_STORE_OPENS = {
    f"snapstore.objects.s3.{module}"
    for module in ("client", "direct", "errors", "inspection", "internals")
}


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
EACH_MODULE = pytest.mark.parametrize("module", MODULES)


def room_of(module):
    """The room on the ladder that a module lies in."""
    rooms = [room for rung in LADDER for room in rung]
    if module in rooms:
        return module
    [room] = [room for room in PACKAGES if module.startswith(f"{room}.")]
    return room


def rung_of(module):
    [rung] = [number for number, rung in enumerate(LADDER) if room_of(module) in rung]
    return rung


def imports_of(module):
    """What a module imports, in functions and for type checkers too: (name, at its top level)."""
    tree = ast.parse(MODULES[module].read_text())
    lazy = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_type_checkers(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names = [
                submodule
                if (submodule := f"{node.module}.{alias.name}") in MODULES
                else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from ((name, node not in lazy) for name in names)


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def own_imports_of(module):
    return {name for name, _ in imports_of(module) if name.split(".")[0] == "snapstore"}


@EACH_MODULE
def test_every_module_lies_in_a_room_of_the_ladder(module):
    assert rung_of(module) in range(len(LADDER))


@EACH_MODULE
def test_nothing_is_imported_from_above_or_beside(module):
    wrong = {
        name
        for name in own_imports_of(module)
        if rung_of(name) >= rung_of(module)
        and not (room_of(name) == room_of(module) and room_of(module) in PACKAGES)
    }

    assert wrong == set()


@pytest.mark.parametrize("module", [name for name in MODULES if "snapstore.objects" in name])
def test_the_object_tier_knows_nothing_of_snapshots(module):
    wrong = {
        name
        for name in own_imports_of(module)
        if name != "snapstore.errors" and not name.startswith("snapstore.objects")
    }

    assert wrong == set()


@pytest.mark.parametrize("module", ["snapstore.cli", "snapstore.demo"])
def test_the_command_line_uses_public_names_only(module):
    assert own_imports_of(module) <= {"snapstore", "snapstore.demo", "snapstore.testing.server"}


@EACH_MODULE
def test_what_is_slow_to_import_is_imported_when_a_store_opens(module):
    eager = {
        name
        for name, at_the_top in imports_of(module)
        if at_the_top and (name in IMPORTED_WHEN_A_STORE_OPENS or name.split(".")[0] in HEAVY)
    }

    if room_of(module) == "snapstore.testing":
        assert not eager & IMPORTED_WHEN_A_STORE_OPENS
    elif module not in IMPORTED_WHEN_A_STORE_OPENS:
        assert eager == set()


def modules_loaded_by(statements):
    """The names of all modules that a new process has loaded after some statements."""
    script = f"{statements}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
        ).stdout.split()
    )


@pytest.mark.parametrize(
    "statements",
    [
        "import snapstore",
        "from snapstore import *",
        "import snapstore; snapstore.S3Storage('bucket', region='eu-central-1')",
        "import snapstore; snapstore.MemoryStorage(); snapstore.FileStorage('/nowhere')",
    ],
)
def test_no_client_is_imported_before_a_store_is_opened(statements):
    loaded = modules_loaded_by(statements)

    assert "snapstore.backends" in loaded
    assert {name for name in loaded if name.split(".")[0] in HEAVY} == set()
    assert loaded & IMPORTED_WHEN_A_STORE_OPENS == set()


def test_the_testing_package_is_imported_only_by_its_users():
    loaded = modules_loaded_by("import snapstore")

    assert {name for name in loaded if name.startswith(("snapstore.testing", "pytest"))} == set()


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "py.typed").is_file()
