"""What all tests share: no settings of this machine, one S3 server, and a way to do without it."""

import asyncio
import contextlib
import functools
import os
import ssl
import uuid
from types import SimpleNamespace

import pytest
from aiobotocore.session import get_session
from botocore.httpsession import get_cert_path
from botocore.loaders import JSONFileLoader
from hypothesis import settings

import sampling
from snapstore.stores.s3.client import _ModelLoader
from snapstore.testing.engines import ENGINES
from snapstore.testing.server import create_bucket, running_server

# A machine that is busy is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_addoption(parser):
    parser.addoption(
        "--no-s3", action="store_true", help="deselect the tests that need an S3 server"
    )
    parser.addoption(
        "--s3-server", default="seaweedfs", choices=ENGINES, help="the engine of the S3 server"
    )
    parser.addoption(
        "--full", action="store_true", help="run matrices in full, where else a sample of them is"
    )
    parser.addoption(
        "--schedules", default=1_000, type=int, help="how many schedules are simulated"
    )


def pytest_configure(config):
    if config.getoption("--full"):
        sampling.STRIDE = 1
    config.addinivalue_line("markers", "s3: needs an S3 server; set by itself where that shows")
    config.addinivalue_line("markers", "properties: tries generated examples; set by itself, too")
    config.addinivalue_line("markers", "full: one of many alike, run with --full alone")
    for engine in ENGINES:
        config.addinivalue_line(
            "markers", f"{engine}: needs what only this S3 server does, or those that are marked"
        )


def pytest_itemcollected(item):
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        item.add_marker("properties")
    if "s3_server" in getattr(item, "fixturenames", ()) or engines_of(item):
        item.add_marker("s3")


def pytest_collection_modifyitems(config, items):
    chosen = {item: is_chosen(item, config) for item in items}
    config.hook.pytest_deselected(items=[item for item in items if not chosen[item]])
    items[:] = [item for item in items if chosen[item]]


def engines_of(item):
    """The engines that a test is for; none if it is for any."""
    return {mark.name for mark in item.iter_markers()} & ENGINES.keys()


def is_chosen(item, config):
    """Whether a test is in the sample, and can do with the S3 server there is, or without one."""
    if item.get_closest_marker("full") and not config.getoption("--full"):
        return False
    if config.getoption("--no-s3"):
        return not item.get_closest_marker("s3")
    return config.getoption("--s3-server") in (engines_of(item) or ENGINES)


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_this_machine(tmp_path_factory):
    """Hide `AWS_*` and `~/.aws`: tests must neither depend on them nor reach a real account."""
    nowhere = tmp_path_factory.mktemp("aws")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_") or name == "REQUESTS_CA_BUNDLE":
                patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_is_read_for_each_client():
    """Read botocore's description of S3 once for all clients, and no certificates but a test's."""
    load = ssl.SSLContext.load_verify_locations

    def load_ours(context, cafile=None, *others):
        if cafile != get_cert_path(verify=True):
            load(context, cafile, *others)

    with pytest.MonkeyPatch.context() as patch:
        for loader in (JSONFileLoader, _ModelLoader):
            for name in ("exists", "load_file"):
                kept = functools.cache(functools.partial(getattr(loader, name), loader()))
                patch.setattr(loader, name, staticmethod(kept))
        patch.setattr("ssl.SSLContext.load_verify_locations", load_ours)
        yield


@pytest.fixture(scope="session")
def s3_server(no_settings_of_this_machine, request):
    with running_server(request.config.getoption("--s3-server")) as server:
        yield server


@pytest.fixture(scope="session")
def bucket(s3_server):
    """A bucket for all tests: each keeps to its own `prefix`."""
    create_bucket(s3_server, "tests")
    return "tests"


@pytest.fixture
def prefix():
    """A prefix that no other test has."""
    return f"prefix-{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def aws_session():
    """One session for all clients: it reads the description of S3 only once."""
    return get_session()


@pytest.fixture
async def s3_client(s3_server, aws_session):
    """A client of aiobotocore as it comes, to look at what is stored."""
    async with aws_session.create_client("s3", **s3_server.client_options) as client:
        yield client


@pytest.fixture
def bring_deadlines_forward(monkeypatch):
    """A function that ends all deadlines under way soon: no test waits, and none is too slow."""
    deadlines = []

    def timeout(delay):
        deadlines.append(asyncio.timeout(delay))
        return deadlines[-1]

    def bring_forward(seconds=0.05):
        for deadline in deadlines:
            with contextlib.suppress(RuntimeError):  # of one that is over
                deadline.reschedule(asyncio.get_running_loop().time() + seconds)

    replaced = SimpleNamespace(**{**vars(asyncio), "timeout": timeout})
    monkeypatch.setattr("snapstore.stores.deadline.asyncio", replaced)
    return bring_forward
