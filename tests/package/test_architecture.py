"""What an import costs, and which names are public. `nox -s lint` holds the layers."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import snapstore

ROOT = Path(snapstore.__file__).parent

HEAVY = {"aiobotocore", "aiohttp", "botocore"}
IMPORTED_WHEN_A_STORE_OPENS = {
    f"snapstore.stores.s3.{module}"
    for module in (
        *("attempts", "botocore_errors", "bounds", "capture", "client", "codes", "errors"),
        *("fast_path", "http", "inspection", "internals", "replay", "template", "xml"),
    )
}


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
EACH_MODULE = pytest.mark.parametrize("module", MODULES)


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


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.startswith(("snapstore.cli", "snapstore.demo"))]
)
def test_the_command_line_uses_public_names_only(module):
    own = ("snapstore.cli", "snapstore.demo")
    others = {name for name in own_imports_of(module) if not name.startswith(own)}

    assert others <= {"snapstore", "snapstore.operations", "snapstore.testing.server"}


@EACH_MODULE
def test_what_is_slow_to_import_is_imported_when_a_store_opens(module):
    eager = {
        name
        for name, at_the_top in imports_of(module)
        if at_the_top and (name in IMPORTED_WHEN_A_STORE_OPENS or name.split(".")[0] in HEAVY)
    }

    if module.startswith("snapstore.testing"):
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
        "from snapstore import *",
        "import snapstore; snapstore.S3Storage('bucket', region='eu-central-1')",
        "import snapstore; snapstore.MemoryStorage(); snapstore.FileStorage('/nowhere')",
    ],
)
def test_no_client_is_imported_before_a_store_is_opened(statements):
    loaded = modules_loaded_by(statements)

    assert "snapstore.storage.backends" in loaded
    assert {name for name in loaded if name.split(".")[0] in HEAVY} == set()
    assert loaded & IMPORTED_WHEN_A_STORE_OPENS == set()


@pytest.mark.parametrize("module", ["snapstore", "snapstore.pytest_plugin"])
def test_what_every_run_of_pytest_imports_is_next_to_nothing(module):
    loaded = modules_loaded_by(f"import pytest; import {module}") - modules_loaded_by(
        "import pytest"
    )

    assert loaded == {"snapstore", module}


def names_for_type_checkers():
    """The module that type checkers are told of for each public name."""
    [block] = filter(is_for_type_checkers, ast.walk(ast.parse(MODULES["snapstore"].read_text())))
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_the_public_names_are_those_that_type_checkers_see():
    assert snapstore.__all__ == sorted(names_for_type_checkers())


@pytest.mark.parametrize(("name", "module"), names_for_type_checkers().items())
def test_a_public_name_is_what_type_checkers_take_it_for(name, module):
    assert getattr(snapstore, name) is getattr(import_module(module), name)


def test_public_names_are_in_star_imports_and_dir():
    loaded = {}
    exec("from snapstore import *", loaded)

    assert set(snapstore.__all__) <= loaded.keys()
    assert set(snapstore.__all__) <= set(dir(snapstore))


def test_an_error_is_imported_without_the_rest():
    loaded = modules_loaded_by("from snapstore import StorageError")

    assert {name for name in loaded if name.startswith("snapstore")} == {
        "snapstore",
        "snapstore.errors",
    }


def test_a_name_that_is_not_public_is_none():
    with pytest.raises(AttributeError, match="'snapstore' has no attribute 'Probes'"):
        _ = snapstore.Probes
    with pytest.raises(ImportError, match="NoSuchName"):
        from snapstore import NoSuchName  # noqa: F401


def test_the_testing_package_is_imported_only_by_its_users():
    loaded = modules_loaded_by("from snapstore import *")

    assert {name for name in loaded if name.startswith(("snapstore.testing", "pytest"))} == set()


def test_import_of_a_framework_is_left_to_its_integration():
    frameworks = {"fastapi", "pydantic", "pydantic_settings", "starlette"}

    assert modules_loaded_by("import snapstore, snapstore.integrations") & frameworks == set()
    assert modules_loaded_by("import snapstore.integrations.fastapi") >= frameworks


def test_import_of_opentelemetry_is_left_to_its_integration():
    assert "opentelemetry" not in modules_loaded_by("import snapstore, snapstore.integrations")
    loaded = modules_loaded_by("import snapstore.integrations.opentelemetry")
    assert "opentelemetry" in loaded
    assert not any(name.startswith("opentelemetry.sdk") for name in loaded)


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "py.typed").is_file()
