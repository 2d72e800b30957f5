"""The only entrance to the project's checks: `nox -s tests`, `lint`, `typing`, and the others.

It needs nothing but `pip install nox`; every session brings its own tools.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2026.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "typing", "docs", "build", "tests"]

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

# More than there are cores: most tests wait for a process. Each worker has a server of its own.
PYTEST = ("-m", "pytest", f"--numprocesses={(os.cpu_count() or 1) + 2}", "--dist=worksteal")
# For a test that is long because it was asked to be.
LONG = ("--timeout=3600", "--override-ini=faulthandler_timeout=0")
NOTHING_COLLECTED = 5

TYPESCRIPT_SDK = "@strands-agents/sdk"

NEEDED_IN_WHEEL = {
    "snapstore/demo/session.json",
    "snapstore/py.typed",
    "snapstore-{version}.dist-info/licenses/LICENSE",
}


def select_all_of_pyenv() -> None:
    """Let pyenv's `python3.12` and the like run: each fails unless its version is selected."""
    if shutil.which("pyenv") and not os.environ.get("PYENV_VERSION"):
        names: list[str] = []
        for command in ("version-name", "versions --bare --skip-aliases"):
            # A version that is selected but not installed makes it fail; it says so itself.
            listed = subprocess.run(
                ["pyenv", *command.split()], check=False, stdout=subprocess.PIPE, text=True
            )
            names += listed.stdout.replace(":", " ").split()
        # What was selected stays first, so that a plain `python` is the one it was.
        os.environ["PYENV_VERSION"] = ":".join(dict.fromkeys(names))


def is_installed(version: str) -> bool:
    """Whether this Python version runs on this machine; a file on PATH may be but a shim."""
    if version == RUNNING:
        return True
    python = shutil.which(f"python{version}")
    if python is None:
        return False
    return subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode == 0


def dependencies(group: str) -> tuple[str, ...]:
    """The requirements of a dependency group in pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, group)


def lowest_dependencies() -> list[str]:
    """The lower bound of every published requirement, pinned."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    published = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return [
        f"{requirement.name}=={bound.version}"
        + (f"; {requirement.marker}" if requirement.marker else "")
        for requirement in map(Requirement, published)
        for bound in requirement.specifier
        if bound.operator == ">="
    ]


RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
select_all_of_pyenv()
# Newest first. A machine with none of them tries the one it has.
INSTALLED = [
    version for version in reversed(nox.project.python_versions(PYPROJECT)) if is_installed(version)
] or [RUNNING]
NEWEST, OLDEST = INSTALLED[0], INSTALLED[-1]
OTHERS = INSTALLED[1:] or [OLDEST]


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests once, on the Python that runs nox; of the large matrices, a sample."""
    session.install("-e", ".", *dependencies("test"))
    session.run("python", *PYTEST, *session.posargs)


@nox.session(python=NEWEST)
def coverage(session: nox.Session) -> None:
    """Run the tests with coverage and all matrices in full."""
    session.install("-e", ".", *dependencies("test"))
    session.run("coverage", "erase")
    session.run("coverage", "run", *PYTEST, "--full", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(python=OTHERS)
def matrix(session: nox.Session) -> None:
    """Run the tests on the other Pythons: the oldest one with the lowest dependencies."""
    if session.python == OLDEST:
        pins = Path(session.create_tmp()) / "lowest.txt"
        pins.write_text("\n".join(lowest_dependencies()))
        session.install("-e", ".", *dependencies("test"), "--constraint", str(pins))
        session.run("python", *PYTEST, *session.posargs)
    else:
        session.install("-e", ".", *dependencies("test"))
        # What was asked for may need S3, and then nothing is left for this one to run.
        codes = [0, NOTHING_COLLECTED] if session.posargs else [0]
        session.run("python", *PYTEST, "--no-s3", *session.posargs, success_codes=codes)


@nox.session(python=NEWEST)
def properties(session: nox.Session) -> None:
    """Run the property tests with ten times as many examples, new ones each time."""
    session.install("-e", ".", *dependencies("test"))
    env = {"SNAPSTORE_EXAMPLES": os.environ.get("SNAPSTORE_EXAMPLES", "10")}
    session.run("python", *PYTEST, *LONG, "-m", "properties", *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, style, and that imports point down the layers."""
    session.install("-e", ".", *dependencies("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports")


@nox.session(python=NEWEST)
def typing(session: nox.Session) -> None:
    """Check the types of the package, of its use, of the benchmarks and of this file."""
    session.install("-e", ".", *dependencies("typing"))
    session.run("mypy")
    # Without this, it asks the network for news of itself.
    quiet = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    session.run("pyright", "--project", ".", env=quiet)
    session.run("pyright", "--verifytypes", "snapstore", "--ignoreexternal", env=quiet)


@nox.session(python=NEWEST)
def docs(session: nox.Session) -> None:
    """Build the documentation: a warning or a reference that leads nowhere is an error."""
    session.install("-e", ".", *dependencies("docs"))
    directory = Path(session.create_tmp())
    session.run(
        *("sphinx-build", "--fail-on-warning", "--keep-going", "--nitpicky", "--fresh-env"),
        *("--doctree-dir", str(directory / "doctrees"), "docs", str(directory / "html")),
    )


@nox.session(python=NEWEST)
def build(session: nox.Session) -> None:
    """Build the sdist and from it the wheel, and run the sdist's tests against the wheel."""
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    session.install(*dependencies("build"))
    session.run("python", "-m", "build", "--outdir", str(folder / "dist"))
    [sdist] = (folder / "dist").glob("*.tar.gz")
    [wheel] = (folder / "dist").glob("*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(wheel))

    version = wheel.name.split("-")[1]
    files = set(zipfile.ZipFile(wheel).namelist())
    missing = {name.format(version=version) for name in NEEDED_IN_WHEEL} - files
    foreign = {file.split("/")[0] for file in files} - {
        "snapstore",
        f"snapstore-{version}.dist-info",
    }
    if missing or foreign:
        session.error(f"the wheel lacks {sorted(missing)} and should not have {sorted(foreign)}")

    # A folder that has the tests, and no source that could be imported instead of the wheel.
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(source / "snapstore")
    session.run("virtualenv", "--quiet", str(folder / "venv"))
    python = str(folder / "venv" / "bin" / "python")
    wanted = [str(wheel), *dependencies("test")]
    session.run(python, "-m", "pip", "install", *wanted, external=True, silent=True)
    with session.chdir(source):
        session.run(python, *PYTEST, "--no-s3", external=True)


@nox.session(python=NEWEST)
def servers(session: nox.Session) -> None:
    """Run the tests that need an S3 server on others than SeaweedFS: moto, Ceph, Swift."""
    if not shutil.which("radosgw"):
        session.error("Ceph is not installed: see CONTRIBUTING.md")
    session.install("-e", ".", *dependencies("servers"))
    # What was asked for may not be for each of them.
    codes = [0, NOTHING_COLLECTED] if session.posargs else [0]
    for engine in ("moto", "ceph"):
        chosen = (f"--s3-server={engine}", "-m", "s3", *session.posargs)
        session.run("python", *PYTEST, *chosen, success_codes=codes)
    # Too few to be worth the start of workers.
    chosen = ("--s3-server=swift", "-m", "swift", *session.posargs)
    session.run("pytest", *chosen, success_codes=codes)


def install_typescript_sdk(session: nox.Session, version: str | None = None) -> Path:
    """Install the TypeScript SDK, and beside it what the tests run on Node; return the folder.

    Args:
        session: It has the group `node`.
        version: The version; `None` for the newest that `package.json` allows.
    """
    folder = Path(session.create_tmp()).resolve() / (version or "newest")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in ("reference/package.json", "reference/reference.mjs", "strands/agents.mjs"):
        shutil.copy(ROOT / "tests" / file, folder)
    wanted = [f"{TYPESCRIPT_SDK}@{version}"] if version is not None else []
    quiet = ("--legacy-peer-deps", "--no-package-lock", "--no-fund", "--no-audit")
    with session.chdir(folder):
        session.run("node", "--version")
        session.run("npm", "install", *quiet, *wanted)
        session.run("npm", "list", TYPESCRIPT_SDK)
    return folder


def lowest_typescript_sdk() -> str:
    """The lower bound of the TypeScript SDK in `package.json`."""
    package = json.loads((ROOT / "tests" / "reference" / "package.json").read_text())
    bound: str = package["dependencies"][TYPESCRIPT_SDK]
    return bound.removeprefix("^")


def unpack_python_sdk(session: nox.Session) -> tuple[str, Path]:
    """The version of the Python SDK that is installed, and its source, which has its tests."""
    code = "from importlib.metadata import version; print(version('strands-agents'))"
    version = str(session.run("python", "-c", code, silent=True)).strip()
    folder = Path(session.create_tmp()).resolve()
    wanted = f"strands-agents=={version}"
    session.run(
        *(
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary=strands-agents",
            "--dest",
            str(folder),
        ),
        wanted,
    )
    with tarfile.open(folder / f"strands_agents-{version}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return version, folder / f"strands_agents-{version}"


@nox.session(python=NEWEST)
def reference(session: nox.Session) -> None:
    """Run both Strands SDKs on what snapstore writes, and agents of both in one session.

    The newest of each together, and the lowest of each.
    """
    session.install("-e", ".", *dependencies("reference"))
    folder = install_typescript_sdk(session)
    newest, source = unpack_python_sdk(session)
    env = {"SNAPSTORE_REFERENCE": str(folder), "SNAPSTORE_SDK_SOURCE": str(source)}
    suites = ("tests/reference", "tests/strands", "tests/docs/strands")
    session.run("python", *PYTEST, *suites, *session.posargs, env=env)

    env["SNAPSTORE_REFERENCE"] = str(install_typescript_sdk(session, lowest_typescript_sdk()))
    [lowest] = [pin for pin in lowest_dependencies() if pin.startswith("strands-agents==")]
    session.install(lowest)
    installed, source = unpack_python_sdk(session)
    env["SNAPSTORE_SDK_SOURCE"] = str(source)
    # What is about Python's SDK alone has been run, if it is the same one.
    alone = ["--ignore=tests/strands/python"] if installed == newest else []
    session.run("python", *PYTEST, *suites, *alone, *session.posargs, env=env)


def install_node_adapter(session: nox.Session) -> Path:
    """Install what the adapter for transcripts in JavaScript needs; return its directory."""
    directory = Path(session.create_tmp()).resolve() / "claude"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(ROOT / "tests" / "frameworks" / "claude" / "node", directory)
    with session.chdir(directory):
        session.run("npm", "install", "--no-package-lock", "--no-fund", "--no-audit")
    return directory


@nox.session(python=NEWEST)
def frameworks(session: nox.Session) -> None:
    """Run other frameworks on snapstore: the newest on SeaweedFS and Ceph, then the lowest."""
    if not shutil.which("radosgw"):
        session.error("Ceph is not installed: see CONTRIBUTING.md")
    session.install("-e", ".", *dependencies("frameworks"))
    suites = ("tests/frameworks", "tests/docs/frameworks")
    env = {"SNAPSTORE_CLAUDE_NODE": str(install_node_adapter(session))}
    session.run("python", *PYTEST, *suites, *session.posargs, env=env)
    # What was asked for may need no S3.
    codes = [0, NOTHING_COLLECTED] if session.posargs else [0]
    chosen = ("--s3-server=ceph", "-m", "s3", "tests/frameworks", *session.posargs)
    session.run("python", *PYTEST, *chosen, env=env, success_codes=codes)

    # Beside the lowest langgraph-checkpoint the newest langgraph that takes it.
    names = (
        "backports.zstd",
        "claude-agent-sdk",
        "langgraph-checkpoint",
        "openai-agents",
        "pydantic-ai-slim",
    )
    lowest = [pin for pin in lowest_dependencies() if pin.startswith(names)]
    session.install(*lowest, "langgraph")
    session.run("python", *PYTEST, *suites, *session.posargs, env=env)


@nox.session(python=NEWEST)
def recipes(session: nox.Session) -> None:
    """Run the programs that keep the state of frameworks for which there is no adapter."""
    session.install("-e", ".", *dependencies("recipes"))
    suite = (*PYTEST, "tests/docs/recipes", *session.posargs)
    session.run("python", *suite, "-k", "not crewai")
    session.install(*dependencies("recipes-crewai"))
    session.run("python", *suite, "-k", "crewai")


@nox.session(python=NEWEST)
def simulate(session: nox.Session) -> None:
    """Simulate writers on an unreliable wire: `nox -s simulate -- --schedules=100000`."""
    session.install("-e", ".", *dependencies("test"))
    posargs = session.posargs or ["--schedules=10000"]
    session.run("python", *PYTEST, *LONG, "tests/stores/s3/test_simulation.py", *posargs)


@nox.session(python=NEWEST)
def soak(session: nox.Session) -> None:
    """Let processes work for ten minutes on a network that breaks, and on files."""
    session.install("-e", ".[server]", *dependencies("test"))
    session.run("python", "tests/soak/soak.py", *session.posargs)


@nox.session(python=NEWEST)
def bench(session: nox.Session) -> None:
    """Measure: CPU beside the peers, a whole life, requests, and the cost of starting."""
    session.install("-e", ".[server]", *dependencies("bench"))
    if "--record" in session.posargs:
        session.run("python", "-m", "benchmarks.trend", *session.posargs)
        return
    folder = install_typescript_sdk(session)
    session.run("python", "-m", "benchmarks.run", "--node", str(folder), *session.posargs)
    if set(session.posargs) <= {"--short"}:
        session.run("python", "-m", "benchmarks.life", "--node", str(folder), *session.posargs)
        session.run("python", "-m", "benchmarks.adapters", *session.posargs)
    if not session.posargs:
        session.run("python", "-m", "benchmarks.requests")
        session.run("python", "-m", "benchmarks.sessions")
        session.run("python", "-m", "benchmarks.startup")
    if set(session.posargs) <= {"--short"}:
        session.run("python", "-m", "benchmarks.trend")
