"""Fixtures for tests of code that uses snapstore. pytest finds them by itself.

A test gets a storage on a real S3 server, SeaweedFS, which is started when the first test asks for
it::

    async def test_a_session_is_resumed(snapstore_s3):
        async with snapstore_s3() as storage:
            await storage.checkpoint(location=LOCATION, snapshot=Snapshot.new({"turn": 1}))

None of the fixtures is async: what they give is opened by the test, on the loop of the test. So it
is all the same which async framework there is, in which mode, and how long its loops live.

It needs `pip install "snapstore[pytest,server]"`. Where that server can't run, the tests that need
it are errors, never skipped, unless `pytest --snapstore-memory` asks for memory in its place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

import pytest

if TYPE_CHECKING:
    from snapstore import ObjectSnapshotStorage
    from snapstore.testing.server import S3Server

# Every run of pytest imports this module, also where nobody asks for a fixture. So what costs time
# is imported in the fixtures.

__all__ = ["StorageFactory"]

_NAMES: Final = ("snapstore", __name__)
"""What this plugin may be registered as: by its entry point, and by `-p` or `pytest_plugins`."""

_MEMORY: Final = "--snapstore-memory"
_NOTICE: Final = f"snapstore: memory in the place of S3, by {_MEMORY}"


class StorageFactory(Protocol):
    """What `snapstore_s3`, `snapstore_file` and `snapstore_memory` are."""

    def __call__(self, *, prefix: str | None = None) -> ObjectSnapshotStorage:
        """Make a storage that is not open yet: `async with snapstore_s3() as storage`.

        Args:
            prefix: Storages with the same one share what they keep, as two workers on one bucket
                do. `None` for one that no other storage has.

        Returns:
            The storage, for any one event loop.
        """
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option to do without a server."""
    parser.getgroup("snapstore").addoption(
        _MEMORY,
        action="store_true",
        help="snapstore_s3 gives storages in memory: no S3 server is started",
    )


def pytest_plugin_registered(plugin: object, manager: pytest.PytestPluginManager) -> None:
    """Be there under both names: pytest breaks off where a module is registered twice."""
    if plugin is sys.modules[__name__]:
        for name in _NAMES:
            if not manager.hasplugin(name):
                manager.register(object(), name)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say at the beginning of a run that there is no server."""
    return _NOTICE if _in_memory(config) else None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say it at the end too, where it is read."""
    if _in_memory(config):
        terminalreporter.write_line(_NOTICE, yellow=True)


@pytest.fixture(scope="session")
def snapstore_server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """A real S3 server, SeaweedFS, on loopback; one for each process that runs tests.

    It starts in about 0.7 seconds, keeps its files in a temporary folder, and is stopped when the
    tests end, however they do. Where it can't start, or under `--snapstore-memory`, the test is an
    error that says why.

    For another engine, or another server, give a fixture of this name and scope in `conftest.py`::

        @pytest.fixture(scope="session")
        def snapstore_server():
            with running_server("moto") as server:
                yield server
    """
    from snapstore.testing.server import ServerUnavailableError, running_server

    if _in_memory(request.config):
        pytest.fail(f"there is no S3 server: {_MEMORY} was given", pytrace=False)
    try:
        with running_server() as server:
            yield server
    except ServerUnavailableError as error:
        reason = f"{error}\nTo do without a server: pytest {_MEMORY}"
        raise pytest.fail.Exception(reason, pytrace=False) from None


@pytest.fixture(scope="session")
def snapstore_bucket(snapstore_server: S3Server) -> str:
    """The name of a bucket on the server, for all tests: each keeps to a prefix of its own.

    A test that needs a whole bucket makes one::

        from snapstore.testing.server import create_bucket

        def test_a_whole_bucket(snapstore_server):
            create_bucket(snapstore_server, "my-bucket")
    """
    from snapstore.testing.server import create_bucket

    name = _fresh("snapstore")
    create_bucket(snapstore_server, name)
    return name


@pytest.fixture
def snapstore_prefix() -> str:
    """A prefix that no other test has, for what your own code makes, and to look at it.

    ::

        async def test_two_workers(snapstore_s3, snapstore_prefix):
            async with (
                snapstore_s3(prefix=snapstore_prefix) as one,
                snapstore_s3(prefix=snapstore_prefix) as two,
            ):
                ...
    """
    return _fresh("test")


@pytest.fixture(scope="session")
def snapstore_s3(request: pytest.FixtureRequest) -> StorageFactory:
    """Makes storages on the server: an `S3Storage` each, see `StorageFactory`.

    No setting of this machine has a say in them: neither `AWS_*` nor `~/.aws` nor a proxy. For
    other arguments than a prefix, make the storage yourself::

        S3Storage(snapstore_bucket, timeout=1, **snapstore_server.storage_options)

    Under `--snapstore-memory` it is `snapstore_memory`, and the run says so.
    """
    if _in_memory(request.config):
        factory: StorageFactory = request.getfixturevalue("snapstore_memory")
        return factory
    from snapstore import S3Storage

    server: S3Server = request.getfixturevalue("snapstore_server")
    bucket: str = request.getfixturevalue("snapstore_bucket")
    return _factory(lambda prefix: S3Storage(bucket, prefix=prefix, **server.storage_options))


@pytest.fixture(scope="session")
def snapstore_file(tmp_path_factory: pytest.TempPathFactory) -> StorageFactory:
    """Makes storages in files of a temporary folder: see `StorageFactory`.

    ::

        async def test_a_session_is_resumed(snapstore_file):
            async with snapstore_file() as storage:
                ...
    """
    from snapstore import FileStorage

    root = tmp_path_factory.mktemp("snapstore")
    return _factory(lambda prefix: FileStorage(root, prefix=prefix))


@pytest.fixture(scope="session")
def snapstore_memory() -> StorageFactory:
    """Makes storages in memory, where they take no time at all: see `StorageFactory`.

    To run a test on each kind of storage::

        @pytest.fixture(params=["s3", "file", "memory"])
        def storages(request):
            return request.getfixturevalue(f"snapstore_{request.param}")
    """
    from snapstore import ObjectSnapshotStorage
    from snapstore.stores.memory import MemoryObjectStore

    store = MemoryObjectStore()
    return _factory(lambda prefix: ObjectSnapshotStorage(store, prefix=prefix))


@pytest.fixture
def snapstore_environment(
    snapstore_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The `AWS_*` variables by which every SDK finds the server and nothing else; for one test.

    For code that makes its own storage or client, as it does in production: `S3Storage(bucket)`.

    ::

        def test_the_app(snapstore_environment, snapstore_bucket):
            with TestClient(make_app(bucket=snapstore_bucket)) as client:
                ...

    They are set in this process. The result has them for others, laid over `os.environ`.
    """
    from urllib.request import getproxies

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    variables = {
        **snapstore_server.environment(),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "no_proxy": f"127.0.0.1,{getproxies().get('no', '')}",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def _in_memory(config: pytest.Config) -> bool:
    # A plugin that comes late, by `pytest_plugins` of a test, has no options.
    return bool(config.getoption(_MEMORY, default=False))


def _factory(make: Callable[[str], ObjectSnapshotStorage]) -> StorageFactory:
    def factory(*, prefix: str | None = None) -> ObjectSnapshotStorage:
        return make(_fresh("test") if prefix is None else prefix)

    return factory


def _fresh(kind: str) -> str:
    return f"{kind}-{os.urandom(8).hex()}"
