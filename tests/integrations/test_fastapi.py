"""The FastAPI integration: lifespan, dependency, answers, settings, and the example app."""

import asyncio
import inspect
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio.from_thread
import httpx2
import pytest
from aiobotocore.session import get_session
from fastapi import FastAPI, WebSocket
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict
from starlette.websockets import WebSocketDisconnect

import snapstore
from snapstore import (
    LifecycleError,
    MemoryStorage,
    ObjectSnapshotStorage,
    OutcomeUnknownError,
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotEncodeError,
    SnapshotExistsError,
    SnapshotLocation,
    StorageClosedError,
    StorageTimeoutError,
    StorageUnavailableError,
    WrongEventLoopError,
    snapshot_time,
)
from snapstore.integrations.fastapi import (
    SnapshotJSONResponse,
    Storage,
    StorageSettings,
    error_handlers,
    get_storage,
    storage_lifespan,
)
from snapstore.stores.memory import MemoryObjectStore
from snapstore.stores.s3.options import S3Options
from snapstore.testing import FaultyObjectStore, LatencyObjectStore, StoreFault, faults_in_turn
from snapstore.testing.proxy import Fault, recording_proxy
from snapstore.testing.samples import CANARY

LOCATION = SnapshotLocation.agent("s-1", "weather")
SNAPSHOT = Snapshot.new({"messages": []})
CUT_EMOJI = "rain \ud83c"


def app_over(storage, **options):
    """An app that saves, loads and does not care what fails."""
    lifespan = partial(storage_lifespan, storage=storage)
    app = FastAPI(lifespan=lifespan, exception_handlers=error_handlers, **options)
    add_endpoints(app)
    return app


def add_endpoints(app):
    @app.get("/{session_id}")
    async def load(session_id: str, storage: Storage) -> dict[str, Any] | None:
        location = SnapshotLocation.agent(session_id, "weather")
        snapshot = await storage.load_snapshot(location=location)
        return None if snapshot is None else snapshot.data

    @app.put("/{session_id}")
    async def save(session_id: str, storage: Storage) -> None:
        location = SnapshotLocation.agent(session_id, "weather")
        await storage.save_snapshot(
            location=location, snapshot=SNAPSHOT, is_latest=True, if_none_match=True
        )

    @app.delete("/{session_id}")
    async def delete(session_id: str, storage: Storage) -> int:
        return (await storage.delete_session(session_id=session_id)).objects


def raising(error, **options):
    """An app whose only endpoint raises."""
    app = FastAPI(**{"exception_handlers": error_handlers} | options)

    @app.get("/")
    async def fail() -> None:
        raise error

    return app


@asynccontextmanager
async def client_of(app, log=None):
    """A client of an app that runs on this loop. What the app raises goes to the log."""

    async def served(scope, receive, send):
        try:
            await app(scope, receive, send)
        except Exception as error:
            if log is not None:
                log.extend(traceback.format_exception(error))
            raise

    transport = httpx2.ASGITransport(served, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


def session_for(server):
    session = get_session()
    session.set_credentials(server.access_key, server.secret_key)
    return session


# The lifespan.


def test_a_storage_is_open_for_the_life_of_the_app():
    storage = MemoryStorage()
    app = app_over(storage)

    with TestClient(app) as client:
        assert client.get("/s-1").json() is None
        assert client.put("/s-1").status_code == 200
        assert client.get("/s-1").json() == {"messages": []}

    with pytest.raises(StorageClosedError):
        asyncio.run(storage.load_snapshot(location=LOCATION))
    # On another loop: the app may be started again.
    with TestClient(app) as client:
        assert client.get("/s-1").json() == {"messages": []}


async def test_what_is_under_way_ends_before_the_storage_closes():
    # A task of the app, which the server does not wait for as it does for requests.
    storage = ObjectSnapshotStorage(LatencyObjectStore(MemoryObjectStore(), 0.05))
    app = app_over(storage)

    async with app.router.lifespan_context(app):
        save = storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
        saving = asyncio.create_task(save)
        await asyncio.sleep(0)
        assert not saving.done()

    assert saving.done()
    async with storage:
        assert await storage.load_snapshot(location=LOCATION) == SNAPSHOT
    assert saving.result().etag


def test_it_is_part_of_a_lifespan_of_ones_own():
    storage, events = MemoryStorage(), []

    @asynccontextmanager
    async def lifespan(app):
        async with storage_lifespan(app, storage=storage):
            await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
            events.append("started")
            yield {"model": "small"}
            assert await storage.load_snapshot(location=LOCATION) == SNAPSHOT
            events.append("stopped")

    app = FastAPI(lifespan=lifespan)
    add_endpoints(app)
    with TestClient(app) as client:
        assert client.get("/s-1").json() == {"messages": []}
        assert client.app_state == {"model": "small"}
        assert events == ["started"]
    assert events == ["started", "stopped"]


def test_a_failure_of_the_app_closes_the_storage_too():
    storage = MemoryStorage()

    @asynccontextmanager
    async def lifespan(app):
        async with storage_lifespan(app, storage=storage):
            raise RuntimeError("no model")
            yield

    with pytest.raises(RuntimeError, match="no model"), TestClient(FastAPI(lifespan=lifespan)):
        pass

    async def open_again():
        async with storage:
            pass

    asyncio.run(open_again())


def test_without_its_lifespan_the_error_says_how_to_run_it():
    app = app_over(MemoryStorage())

    with pytest.raises(StorageClosedError, match=r"with TestClient\(app\)"):
        TestClient(app).get("/s-1")


def test_dependency_without_a_lifespan_says_what_it_lacks():
    app = FastAPI(exception_handlers=error_handlers)
    add_endpoints(app)

    with (
        TestClient(app) as client,
        pytest.raises(StorageClosedError, match=r"FastAPI\(lifespan=storage_lifespan\)"),
    ):
        client.get("/s-1")


def test_after_the_app_has_stopped_the_error_is_the_same():
    app = app_over(MemoryStorage())
    with TestClient(app):
        pass

    with pytest.raises(StorageClosedError, match=r"with TestClient\(app\)"):
        TestClient(app).get("/s-1")


def test_each_app_has_its_own_storage():
    first, second = app_over(MemoryStorage()), app_over(MemoryStorage())

    with TestClient(first) as one, TestClient(second) as other:
        one.put("/s-1")
        assert one.get("/s-1").json() == {"messages": []}
        assert other.get("/s-1").json() is None


def test_one_storage_is_not_opened_by_two_apps():
    storage = MemoryStorage()

    with (
        TestClient(app_over(storage)) as client,
        pytest.raises(LifecycleError, match="already open"),
        TestClient(app_over(storage)),
    ):
        pass
    assert client.app_state == {}


def test_a_storage_given_as_an_app_is_refused():
    storage = MemoryStorage()
    app = FastAPI(lifespan=lambda app: storage_lifespan(app, storage))

    with pytest.raises(TypeError, match="storage=…"), TestClient(app):
        pass


# Mounted apps.


def mounted_in(outer):
    mounted = FastAPI(exception_handlers=error_handlers)
    add_endpoints(mounted)
    outer.mount("/mounted", mounted)
    return mounted


def test_a_mounted_app_has_no_storage_by_itself():
    app = FastAPI(lifespan=partial(storage_lifespan, storage=MemoryStorage()))
    mounted_in(app)

    with (
        TestClient(app) as client,
        pytest.raises(StorageClosedError, match=r"storage_lifespan\(app, mounted\)"),
    ):
        client.get("/mounted/s-1")


def test_a_mounted_app_that_is_named_uses_the_same_storage():
    app = FastAPI(lifespan=lambda app: storage_lifespan(app, mounted, storage=MemoryStorage()))
    mounted = mounted_in(app)
    add_endpoints(app)

    with TestClient(app) as client:
        client.put("/mounted/s-1")
        assert client.get("/s-1").json() == {"messages": []}
        assert client.put("/mounted/s-1").status_code == 409


def test_a_mounted_app_may_have_a_storage_of_its_own():
    @asynccontextmanager
    async def lifespan(app):
        async with (
            storage_lifespan(app, storage=MemoryStorage()),
            storage_lifespan(mounted, storage=MemoryStorage()),
        ):
            yield

    app = FastAPI(lifespan=lifespan)
    mounted = mounted_in(app)
    add_endpoints(app)

    with TestClient(app) as client:
        client.put("/mounted/s-1")
        assert client.get("/mounted/s-1").json() == {"messages": []}
        assert client.get("/s-1").json() is None


# The dependency.


def test_a_loop_of_a_sync_endpoint_s_own_is_refused_with_a_hint():
    app = app_over(MemoryStorage())

    @app.get("/sync/{session_id}")
    def load(session_id: str, storage: Storage) -> None:
        asyncio.run(storage.load_snapshot(location=LOCATION))

    with (
        TestClient(app) as client,
        pytest.raises(WrongEventLoopError, match="'async def' endpoint"),
    ):
        client.get("/sync/s-1")


def test_a_sync_endpoint_can_call_into_the_app_s_loop():
    app = app_over(MemoryStorage())

    @app.get("/sync/{session_id}")
    def load(session_id: str, storage: Storage) -> dict[str, Any]:
        load = partial(storage.load_snapshot, location=LOCATION)
        snapshot = anyio.from_thread.run(load)
        assert snapshot is not None
        return snapshot.data

    with TestClient(app) as client:
        client.put("/s-1")
        assert client.get("/sync/s-1").json() == {"messages": []}


def test_a_test_may_put_another_storage_in_its_place():
    app = app_over(MemoryStorage())
    other = MemoryStorage()

    async def opened():
        async with other:
            yield other

    app.dependency_overrides[get_storage] = opened
    with TestClient(app) as client:
        client.put("/s-1")
        assert client.get("/s-1").json() == {"messages": []}
        del app.dependency_overrides[get_storage]
        assert client.get("/s-1").json() is None


@pytest.mark.parametrize("accepted", [True, False])
def test_websocket_has_the_storage_and_closes_with_the_status(accepted):
    app = app_over(MemoryStorage())

    @app.websocket("/chat")
    async def chat(socket: WebSocket, storage: Storage) -> None:
        if accepted:
            await socket.accept()
        for _ in range(2):
            await storage.save_snapshot(
                location=LOCATION, snapshot=SNAPSHOT, is_latest=True, if_none_match=True
            )

    with (
        TestClient(app) as client,
        pytest.raises(WebSocketDisconnect) as closed,
        client.websocket_connect("/chat") as socket,
    ):
        socket.receive_text()
    assert closed.value.code == 4409


# The answers.

ANSWERED = {
    "InvalidIdentifierError": (422, None),
    "OutcomeUnknownError": (503, None),
    "SessionDeletedError": (409, None),
    "SnapshotConflictError": (409, None),
    "SnapshotExistsError": (409, None),
    "SnapshotNotFoundError": (404, None),
    "StorageTimeoutError": (503, "1"),
    "StorageUnavailableError": (503, "1"),
}
ERRORS = [
    name
    for name, value in ((name, getattr(snapstore, name)) for name in snapstore.__all__)
    if isinstance(value, type) and issubclass(value, Exception)
]


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_has_its_answer(name, caplog):
    app = raising(getattr(snapstore, name)("the key"))

    reply = TestClient(app, raise_server_exceptions=False).get("/")

    expected = ANSWERED.get(name, (500, None))
    assert (reply.status_code, reply.headers.get("Retry-After")) == expected
    if name in ANSWERED:
        body = reply.json()
        assert body.keys() == {"detail", "error"}
        assert body["error"] == name
        # Words for clients; only what was wrong with their own id is quoted.
        assert ("the key" in body["detail"]) == (name == "InvalidIdentifierError")
        # What a client is not told, the log has.
        assert ("the key" in caplog.text) == (reply.status_code >= 500)
    else:
        assert reply.text == "Internal Server Error"
        with pytest.raises(getattr(snapstore, name)):
            TestClient(app).get("/")


@pytest.mark.parametrize(("asked", "told"), [(0.2, "1"), (2, "2"), (7.1, "8"), (None, "1")])
def test_retry_after_is_what_the_server_asked_for(asked, told):
    app = raising(StorageUnavailableError("busy", retry_after=asked))

    assert TestClient(app).get("/").headers["Retry-After"] == told


def test_an_app_may_answer_an_error_in_its_own_way():
    async def gone_on(request, error):
        return JSONResponse({"key": error.key}, 412)

    app = raising(
        SnapshotExistsError("…", key="s-1/latest"),
        exception_handlers={**error_handlers, SnapshotConflictError: gone_on},
    )

    reply = TestClient(app).get("/")
    assert (reply.status_code, reply.json()) == (412, {"key": "s-1/latest"})


def test_an_id_that_is_none_is_the_client_s_mistake():
    with TestClient(app_over(MemoryStorage())) as client:
        reply = client.get("/S-1")
    assert reply.status_code == 422
    assert "session_id must be" in reply.json()["detail"]


async def test_lost_response_is_answered_without_retry_after():
    store = FaultyObjectStore(MemoryObjectStore())
    store.fault = faults_in_turn("put", StoreFault(applied=True))
    async with client_of(app_over(ObjectSnapshotStorage(store))) as client:
        reply = await client.put("/s-1")
        assert (reply.status_code, reply.json()["error"]) == (503, OutcomeUnknownError.__name__)
        assert "Retry-After" not in reply.headers
        assert (await client.get("/s-1")).json() == {"messages": []}


async def test_a_deadline_is_answered_with_503(bring_deadlines_forward):
    async def stall(call):
        bring_deadlines_forward()
        return StoreFault(stall=True)

    store = FaultyObjectStore(MemoryObjectStore(), stall)
    async with client_of(app_over(ObjectSnapshotStorage(store, timeout=60.0))) as client:
        reply = await client.get("/s-1")
        assert (reply.status_code, reply.json()["error"]) == (503, StorageTimeoutError.__name__)
        assert reply.headers["Retry-After"] == "1"


# On the real server.


@asynccontextmanager
async def proxied(s3_server, bucket, prefix, **options):
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        storage = S3Storage(
            bucket,
            prefix=prefix,
            endpoint_url=proxy.endpoint_url,
            session=session_for(s3_server),
            region=s3_server.region,
            **options,
        )
        async with client_of(app_over(storage)) as client:
            yield client, proxy


async def test_conflicts_on_s3(s3_server, bucket, prefix):
    async with proxied(s3_server, bucket, prefix) as (client, _):
        replies = await asyncio.gather(*(client.put("/s-1") for _ in range(8)))
        assert sorted(reply.status_code for reply in replies) == [200] + [409] * 7
        assert (await client.delete("/s-1")).json() == 1
        assert (await client.get("/s-1")).json() is None


async def test_an_s3_that_throttles(s3_server, bucket, prefix):
    async def throttle(request):
        return Fault.error(503, "SlowDown", headers={"Retry-After": "7"})

    # The server asks for a longer wait than the deadline leaves.
    async with proxied(s3_server, bucket, prefix, timeout=5.0) as (client, proxy):
        proxy.fault = throttle
        reply = await client.get("/s-1")
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "7")


async def test_an_s3_that_does_not_answer(s3_server, bucket, prefix, bring_deadlines_forward):
    async def stall(request):
        bring_deadlines_forward()
        return Fault(stall=300)

    async with proxied(s3_server, bucket, prefix) as (client, proxy):
        proxy.fault = stall
        reply = await client.get("/s-1")
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")


async def test_a_missing_bucket_is_no_missing_chat(s3_server, prefix, caplog):
    async with proxied(s3_server, "no-such-bucket", prefix) as (client, _):
        reply = await client.get("/s-1")
        assert (reply.status_code, reply.text) == (500, "Internal Server Error")


@pytest.mark.parametrize("debug", [True, False])
async def test_no_text_of_a_snapshot_is_in_an_answer_or_in_the_log(
    s3_server, bucket, prefix, s3_client, caplog, debug
):
    caplog.set_level(logging.DEBUG, "snapstore")
    key = f"{prefix}/s-1/scopes/agent/weather/snapshots/snapshot_latest.json"
    for body in (f'{{"data": "{CANARY}', f'{{"data": "{CANARY}"}}', CANARY, f"\xff{CANARY}"):
        await s3_client.put_object(Bucket=bucket, Key=key, Body=body.encode("latin-1"))
        storage = S3Storage(
            bucket,
            prefix=prefix,
            endpoint_url=s3_server.endpoint_url,
            session=session_for(s3_server),
            region=s3_server.region,
        )
        async with client_of(app_over(storage, debug=debug), logged := []) as client:
            for kind in ("application/json", "text/html"):
                reply = await client.get("/s-1", headers={"Accept": kind})
                assert reply.status_code == 500
                assert CANARY not in reply.text
        # This is what a server logs.
        assert key in "".join(logged)
        assert CANARY not in "".join(logged)
    assert CANARY not in caplog.text


# The response.


@pytest.mark.parametrize("content", [{"text": CUT_EMOJI}, [CUT_EMOJI, {"ü": 10**300}], None, "ü"])
def test_a_response_carries_what_a_snapshot_does(content):
    app = FastAPI()

    @app.get("/")
    async def reply() -> SnapshotJSONResponse:
        return SnapshotJSONResponse(content, headers={"ETag": '"1"'})

    got = TestClient(app).get("/")
    assert json.loads(got.content) == content
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["ETag"] == '"1"'


def test_as_the_default_it_carries_what_fastapi_s_own_does_not():
    def app_with(**options):
        app = FastAPI(**options)

        @app.get("/typed")
        async def typed() -> dict[str, Any]:
            return {"text": CUT_EMOJI}

        @app.get("/untyped")
        async def untyped():
            return {"text": CUT_EMOJI}

        return TestClient(app)

    client = app_with(default_response_class=SnapshotJSONResponse)
    for path in ("/typed", "/untyped"):
        assert client.get(path).content == rb'{"text":"rain \ud83c"}'
        # The reason why it exists; should this fail one day, it may go.
        with pytest.raises(Exception, match="surrogates not allowed"):
            app_with().get(path)


@pytest.mark.parametrize("wrong", [float("nan"), {1, 2}, object()])
def test_a_response_is_exact_or_refused(wrong):
    with pytest.raises(SnapshotEncodeError, match=r"^content\.deep\[0\]: "):
        SnapshotJSONResponse({"deep": [wrong]})


# The settings.


@pytest.fixture
def environment(monkeypatch):
    """Sets variables, in the place of any there are."""

    def put(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    for field in StorageSettings.model_fields:
        monkeypatch.delenv(f"SNAPSTORE_{field.upper()}", raising=False)
    return put


def test_settings_match_the_arguments_of_s3storage():
    parameters = inspect.signature(S3Storage).parameters
    options = dict.fromkeys(S3Options.__optional_keys__) | {"max_concurrency": 128}
    named = {name: found.default for name, found in parameters.items() if name != "options"}
    defaults = options | named
    fields = StorageSettings.model_fields

    assert {
        name: inspect.Parameter.empty if field.is_required() else field.default
        for name, field in fields.items()
    } == {name: defaults[name] for name in fields}
    # The environment can't hold these, and nobody sets them for a whole app.
    others = defaults.keys() - fields.keys()
    passed = inspect.signature(StorageSettings.storage).parameters.keys() - {"self"}
    assert passed == {"on_operation", "on_operation_keys"}
    assert others - passed == {"session", "config", "client", "direct"}
    types = S3Options.__annotations__
    for name in types.keys() & fields.keys():
        assert fields[name].annotation == eval(types[name].__forward_arg__)


def test_settings_come_from_the_environment(environment):
    environment(
        SNAPSTORE_BUCKET="chats", SNAPSTORE_TIMEOUT="2.5", SNAPSTORE_REGION="", AWS_REGION="x"
    )

    settings = StorageSettings()

    assert settings == StorageSettings(bucket="chats", timeout=2.5)
    assert settings.region is None
    assert isinstance(settings.storage(), S3Storage)


async def test_settings_make_a_storage_with_a_hook(s3_server, bucket, prefix, environment):
    environment(**s3_server.environment(), SNAPSTORE_BUCKET=bucket, SNAPSTORE_PREFIX=prefix)
    records = []
    hooked = StorageSettings().storage(on_operation=records.append, on_operation_keys=True)
    location = SnapshotLocation.agent("s-1", "a-1")

    async with hooked as storage:
        await storage.load_snapshot(location=location)

    key = f"{prefix}/s-1/scopes/agent/a-1/snapshots/snapshot_latest.json"
    assert [(record.operation, record.key) for record in records] == [("load_snapshot", key)]


def test_settings_have_another_prefix_or_more_fields(environment):
    class ChatSettings(StorageSettings):
        model_config = SettingsConfigDict(env_prefix="CHAT_")

        model: str

    environment(CHAT_BUCKET="chats", CHAT_MODEL="small", SNAPSTORE_BUCKET="others")
    settings = ChatSettings()

    assert (settings.bucket, settings.model) == ("chats", "small")
    assert isinstance(settings.storage(), S3Storage)


@pytest.mark.parametrize("variables", [{}, {"SNAPSTORE_BUCKET": ""}])
def test_without_a_bucket_the_app_does_not_start(environment, variables):
    environment(**variables)

    with (
        pytest.raises(ValidationError, match=r"SNAPSTORE_BUCKET(.*)\nbucket\n"),
        TestClient(FastAPI(lifespan=storage_lifespan)),
    ):
        pass


def test_a_file_of_settings_may_hold_secrets_of_others(environment, tmp_path):
    environment()
    file = tmp_path / ".env"

    class Settings(StorageSettings):
        model_config = SettingsConfigDict(env_file=file)

    file.write_text(f"AWS_SECRET_ACCESS_KEY={CANARY}\nSNAPSTORE_BUCKET=chats\n")
    assert Settings() == Settings(bucket="chats")
    file.write_text(f"AWS_SECRET_ACCESS_KEY={CANARY}\nSNAPSTORE_TIMEOUT={CANARY}\n")
    with pytest.raises(ValidationError, match=r"bucket\n(.*\n)*timeout\n") as caught:
        Settings()
    assert CANARY not in str(caught.value)


def test_an_app_runs_on_settings_alone(s3_server, bucket, prefix, environment):
    environment(**s3_server.environment(), SNAPSTORE_BUCKET=bucket, SNAPSTORE_PREFIX=prefix)
    app = FastAPI(lifespan=storage_lifespan)
    add_endpoints(app)

    with TestClient(app) as client:
        client.put("/s-1")
        assert client.get("/s-1").json() == {"messages": []}


# The import.


@pytest.mark.parametrize("missing", ["fastapi", "pydantic_settings"])
def test_without_the_extra_one_line_names_it(missing):
    script = f"import sys; sys.modules[{missing!r}] = None; import snapstore.integrations.fastapi"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )

    assert ended.stderr.splitlines()[-1] == (
        "ImportError: snapstore.integrations.fastapi needs FastAPI: "
        'pip install "snapstore[fastapi]"'
    )


# The example, as a program with two workers.

EXAMPLES = Path(__file__).parents[1] / "examples"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(process)d %(message)s"}},
    "handlers": {"log": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"level": "INFO", "handlers": ["log"]},
}


class Chats:
    """The example under uvicorn, and a client that comes on a new connection each time."""

    def __init__(self, process, log):
        self.process = process
        self._log = log
        self.url = ""

    @property
    def log(self):
        return self._log.read_text()

    async def until(self, words, times=1):
        deadline = time.monotonic() + 60
        while self.log.count(words) < times:
            assert time.monotonic() < deadline, self.log
            assert self.process.poll() is None, self.log
            await asyncio.sleep(0.05)

    async def ask(self, method, path, **options):
        async with httpx2.AsyncClient(base_url=self.url, trust_env=False, timeout=60) as client:
            return await client.request(method, path, **options)

    async def start(self):
        reply = await self.ask("POST", "/chats")
        assert reply.status_code == 201
        return f"/chats/{reply.json()['chat_id']}"

    async def turns(self, chat):
        """All of them, newest first: a race leaves more than a page holds."""
        turns, params = [], {"limit": 100}
        while page := (await self.ask("GET", f"{chat}/turns", params=params)).json():
            turns += page
            params["before"] = page[-1]["turn"]
        return turns

    async def say(self, chat, text, **headers):
        # As JavaScript writes it, half an emoji included.
        content = json.dumps({"text": text})
        headers = {"Content-Type": "application/json", **headers}
        return await self.ask("POST", f"{chat}/messages", content=content, headers=headers)


@asynccontextmanager
async def running_chats(s3_server, bucket, prefix, folder, endpoint_url=None):
    config, log = folder / "logging.json", folder / "log"
    config.write_text(json.dumps(LOGGING))
    environment = os.environ | s3_server.environment()
    environment |= {"SNAPSTORE_BUCKET": bucket, "SNAPSTORE_PREFIX": prefix}
    environment |= {"SNAPSTORE_ENDPOINT_URL": endpoint_url or s3_server.endpoint_url}
    command = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "fastapi_chat:app"]
    options = ["--workers", "2", "--port", "0", "--log-config", config]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], stderr=output, env=environment, start_new_session=True
        )
    chats = Chats(process, log)
    try:
        await chats.until("Application startup complete", times=2)
        chats.url = re.search(r"running on (http://127\.0\.0\.1:\d+)", chats.log)[1]
        yield chats
        process.terminate()
        await asyncio.to_thread(process.wait, 60)
        assert chats.log.count("Application shutdown complete") == 2, chats.log
        assert "Traceback" not in chats.log, chats.log
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def test_a_chat_is_resumed_rewound_and_deleted(s3_server, bucket, prefix, tmp_path):
    async with running_chats(s3_server, bucket, prefix, tmp_path) as chats:
        chat, other = await chats.start(), await chats.start()
        said = [(await chats.say(chat, text)).json() for text in ("one", "two", "three")]
        assert [turn["reply"] for turn in said] == [
            f"You said: {text}" for text in ("one", "two", "three")
        ]
        resumed = await chats.ask("GET", chat)
        texts = [message["text"] for message in resumed.json()["messages"][::2]]
        assert texts == ["one", "two", "three"]

        third, second = (await chats.ask("GET", f"{chat}/turns?limit=2")).json()
        before = await chats.ask("GET", f"{chat}/turns", params={"before": second["turn"]})
        menu = [third, second, *before.json()]
        assert [found["turn"] for found in menu] == [turn["turn"] for turn in said][::-1]
        assert all(datetime.fromisoformat(found["at"]).utcoffset() is not None for found in menu)
        first = menu[-1]["turn"]

        page = (await chats.ask("GET", "/chats?limit=1")).json()
        assert [found["chat_id"] for found in page["chats"]] == [other.removeprefix("/chats/")]
        more = (await chats.ask("GET", "/chats", params={"cursor": page["cursor"]})).json()
        [summary] = more["chats"]
        assert (summary["chat_id"], summary["turns"]) == (chat.removeprefix("/chats/"), 3)
        assert datetime.fromisoformat(summary["updated_at"]) == snapshot_time(said[-1]["turn"])
        assert (await chats.ask("GET", "/chats?cursor=nonsense")).status_code == 422
        assert (await chats.ask("GET", "/chats?limit=0")).status_code == 422

        rewound = await chats.ask("POST", f"{chat}/rewind", json={"turn": first})
        assert rewound.headers["ETag"]
        assert len(rewound.json()["messages"]) == 2
        await chats.say(chat, "four")
        resumed = await chats.ask("GET", chat)
        assert [message["text"] for message in resumed.json()["messages"][::2]] == ["one", "four"]

        stale = await chats.say(chat, "late", **{"If-Match": '"stale"'})
        assert stale.status_code == 409
        in_time = await chats.say(chat, CUT_EMOJI, **{"If-Match": resumed.headers["ETag"]})
        assert in_time.json()["reply"] == f"You said: {CUT_EMOJI}"
        # The answer brings the etag of the next one.
        next_one = await chats.say(chat, "six", **{"If-Match": in_time.headers["ETag"]})
        assert next_one.status_code == 200

        assert (await chats.ask("DELETE", chat)).status_code == 204
        for reply in (
            await chats.ask("GET", chat),
            await chats.say(chat, "anyone?"),
            await chats.ask("POST", f"{chat}/rewind", json={"turn": first}),
            await chats.ask("POST", f"{other}/rewind", json={"turn": first}),
        ):
            assert reply.status_code == 404
        assert (await chats.ask("GET", f"{chat}/turns")).json() == []
        assert (await chats.ask("GET", other)).json() == {"messages": []}
        assert (await chats.ask("GET", "/chats/No%20Chat")).status_code == 422


async def test_two_workers_race_on_one_chat_and_lose_no_message(
    s3_server, bucket, prefix, tmp_path
):
    conflicts, accepted = [], {}

    async def talk(chats, chat, name):
        for number in range(5):
            text = f"{name} {number}"
            while (reply := await chats.say(chat, text)).status_code == 409:
                conflicts.append(reply.json()["error"])
            assert reply.status_code == 200, reply.text
            accepted[text] = reply.json()

    async with running_chats(s3_server, bucket, prefix, tmp_path) as chats:
        chat = await chats.start()
        async with asyncio.TaskGroup() as tasks:
            for name in ("ann", "ben", "cid", "dot", "eve", "fay"):
                tasks.create_task(talk(chats, chat, name))
        messages = (await chats.ask("GET", chat)).json()["messages"]
        history = await chats.turns(chat)
        workers = set(re.findall(r"^(\d+) .*POST .*/messages", chats.log, re.MULTILINE))

    said = [message["text"] for message in messages[::2]]
    assert sorted(said) == sorted(accepted)
    assert len(said) == 30
    assert [message["text"] for message in messages[1::2]] == [f"You said: {text}" for text in said]
    # It was a race, of two: each conflict was one, and left its turn in history.
    assert len(workers) == 2
    assert set(conflicts) == {"SnapshotConflictError"}
    assert {turn["turn"] for turn in accepted.values()} <= {turn["turn"] for turn in history}
    assert len(history) == 30 + len(conflicts)


async def test_a_worker_that_is_stopped_ends_what_it_has_begun(s3_server, bucket, prefix, tmp_path):
    arrived, released = asyncio.Event(), asyncio.Event()

    async def hold(request):
        if request.operation == "PutObject" and "immutable_history" in request.path:
            arrived.set()
            await released.wait()

    async with recording_proxy(s3_server.endpoint_url) as proxy:
        async with running_chats(s3_server, bucket, prefix, tmp_path, proxy.endpoint_url) as chats:
            chat = await chats.start()
            proxy.fault = hold
            saying = asyncio.create_task(chats.say(chat, "last words"))
            await arrived.wait()
            chats.process.terminate()
            await chats.until("Shutting down", times=2)
            released.set()
            assert (await saying).status_code == 200
        async with running_chats(s3_server, bucket, prefix, tmp_path) as chats:
            resumed = await chats.ask("GET", chat)
    assert resumed.json()["messages"][0]["text"] == "last words"
