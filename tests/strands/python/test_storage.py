"""A storage for the SDK: its keys, what it stores, lists, deletes and translates; its errors."""

import asyncio
import copy
import gc
import json
import logging
import pickle
from urllib.parse import unquote

import boto3
import pytest
import strands.storage
from strands import Agent
from strands.session import SnapshotSessionManager
from strands.storage.search import StorageSearchResult
from strands.types.exceptions import StorageError as SDKStorageError

import snapstore
from snapstore.integrations.strands import (
    SnapstoreSessionManager,
    StrandsStorage,
    convert_snapshot,
)
from snapstore.integrations.strands.sdk import is_namespaced
from snapstore.stores import ObjectTooLargeError, PreconditionFailedError
from snapstore.testing.proxy import Fault

LATEST = "session/s-1/scopes/agent/weather/snapshots/snapshot_latest.json"
OF_PYTHON = json.dumps(
    {
        "scope": "agent",
        "schema_version": "1.0",
        "created_at": "2026-11-22T11:13:20Z",
        "data": {"messages": [{"role": "user", "content": [{"text": "hi"}]}], "state": {"a": 1}},
        "app_data": {},
    }
).encode()
OF_TYPESCRIPT = convert_snapshot(OF_PYTHON, "typescript")


@pytest.fixture
def sdk_storage(options):
    """The SDK's own, on the same bucket."""
    made = []

    def make(prefix, endpoint_url=options["endpoint_url"]):
        session = boto3.Session(region_name="us-east-1")
        storage = strands.storage.S3Storage(options["bucket"], prefix=prefix, boto_session=session)
        client = session.client("s3", endpoint_url=endpoint_url)
        storage._client = client  # noqa: SLF001 -- it has no other way to another endpoint
        made.append(client)
        return storage

    yield make
    for client in made:
        client.close()


@pytest.fixture
def stored(s3_client, options):
    """The full keys of this test, and what is under one."""

    class Stored:
        async def keys(self, prefix=options["prefix"]):
            reply = await s3_client.list_objects_v2(Bucket=options["bucket"], Prefix=prefix)
            return [found["Key"] for found in reply.get("Contents", [])]

        async def read(self, key):
            full = f"{options['prefix']}/{key}"
            reply = await s3_client.get_object(Bucket=options["bucket"], Key=full)
            async with reply["Body"] as body:
                return await body.read()

    return Stored()


async def test_what_was_written_is_read_and_then_deleted(storage):
    assert await storage.read("a/b") is None
    await storage.write("a/b", b"first")
    await storage.write("a/b", b"\x00second\xff")
    assert await storage.read("a/b") == b"\x00second\xff"
    await storage.delete("a/b")
    assert await storage.read("a/b") is None
    await storage.delete("a/b")


PREFIXES = ["", "agents", "agents/", "/agents", "a//b/", "//x/a b", "ü/🌧️", "./.", "a+b%20c"]
KEYS = ["a", "/a//b/", "a b/c+d", "a%20b", "ü/🌧️/é", "a?b#c&d=e", "./a/./b", "~x/(y)'!*", "a:b@,;e$"]


@pytest.mark.parametrize("before", PREFIXES)
async def test_keys_on_the_wire_are_those_of_the_sdks_own_storage(
    before, make_storage, sdk_storage, proxy
):
    async def keep_for_itself(request):
        listing = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
        body = listing if request.operation == "ListObjectsV2" else b""
        return Fault(forward=False, body=body, headers={"ETag": '"0"'})

    proxy.fault = keep_for_itself
    ours = make_storage(prefix=before, endpoint_url=proxy.endpoint_url)
    theirs = sdk_storage(before, proxy.endpoint_url)

    async def asked_for(storage):
        proxy.requests.clear()
        for view in (storage, storage.namespace("/n//m/")):
            for key in KEYS:
                await view.write(key, b"")
                await view.read(key)
                await view.list(key)
        return [
            (request.operation, unquote(request.path).rstrip("/"), request.query.get("prefix"))
            for request in proxy.requests
        ]

    assert await asked_for(ours) == await asked_for(theirs)


@pytest.mark.parametrize("key", [key for key in KEYS if "." not in key])
async def test_either_storage_reads_what_the_other_wrote(key, options, storage, sdk_storage):
    theirs = sdk_storage(options["prefix"])

    await storage.write(key, b"ours")
    assert await theirs.read(key) == b"ours"
    assert await storage.list("") == await theirs.list("")
    await theirs.write(key, b"theirs")
    assert await storage.read(key) == b"theirs"
    await storage.delete(key)
    assert await theirs.read(key) is None


@pytest.mark.parametrize("manager", [SnapshotSessionManager, SnapstoreSessionManager])
async def test_stash_of_the_sdks_storage_is_not_out_of_reach(
    manager, echo, options, storage, sdk_storage, caplog
):
    async def run(manager, storage, text):
        agent = Agent(
            agent_id="a",
            model=echo(),
            storage=storage,
            session_manager=manager("session-1"),
            context_manager="auto",
            callback_handler=None,
        )
        await agent.invoke_async(text)
        return await agent.context_manager.stash.list()

    theirs = sdk_storage(options["prefix"])
    stashed = await run(SnapshotSessionManager, theirs, "one")
    with caplog.at_level(logging.WARNING, "strands"):
        assert set(await run(manager, storage, "two")) > set(stashed)
        assert set(await run(SnapshotSessionManager, theirs, "three")) > set(stashed)

    assert caplog.text == ""


CUT = "a\ud83c"


@pytest.mark.parametrize(
    "use",
    [
        lambda storage: storage.read(CUT),
        lambda storage: storage.write(CUT, b""),
        lambda storage: storage.create(CUT, b""),
        lambda storage: storage.delete(CUT),
        lambda storage: storage.list(CUT),
        lambda storage: storage.list("", start_after=CUT),
        lambda storage: storage.namespace("n").read(CUT),
    ],
)
async def test_a_key_with_half_an_emoji_is_refused_with_advice(use, storage, no_threads):
    with pytest.raises(
        snapstore.InvalidIdentifierError, match="half of a surrogate pair"
    ) as caught:
        await use(storage)

    assert isinstance(caught.value, SDKStorageError)
    assert caught.value.__context__ is None
    assert no_threads() == []


def test_a_prefix_with_half_an_emoji_is_refused_with_advice(options, storage):
    for make in (
        lambda: StrandsStorage(**options | {"prefix": CUT}),
        lambda: storage.namespace(CUT),
    ):
        with pytest.raises(snapstore.InvalidIdentifierError, match="half of a surrogate pair"):
            make()


def copied_by_pickle(storage):
    return pickle.loads(pickle.dumps(storage))


EACH_COPY = pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, copied_by_pickle])


@EACH_COPY
@pytest.mark.parametrize("used", [False, True])
async def test_a_storage_can_be_copied(copied, used, options, storage):
    session = None if copied is copied_by_pickle else options["session"]
    original = StrandsStorage(**options | {"session": session})
    if used:
        await original.write("before", b"x")
    view = original.namespace("n")

    with copied(original) as copy_of_it, copied(view) as copy_of_view:
        await copy_of_it.write("a", b"x")
        await copy_of_view.write("b", b"x")
    original.close()

    assert set(await storage.list("")) >= {"a", "n/b"}
    assert is_namespaced(copied(view))
    assert not is_namespaced(copied(original))


@pytest.mark.parametrize("copied", [copy.deepcopy, copied_by_pickle])
async def test_a_copy_has_a_thread_of_its_own(copied, options, no_threads):
    original = StrandsStorage(**options | {"session": None})
    await original.write("a", b"x")
    twin = copied(original)
    original.close()

    with twin:
        assert await twin.read("a") == b"x"
    with pytest.raises(snapstore.StorageClosedError):
        await original.read("a")


@EACH_COPY
def test_a_session_manager_can_be_copied_too(copied, options):
    storage = StrandsStorage(**options | {"session": None})
    manager = SnapstoreSessionManager("session-1", storage=storage, on_conflict="reload")

    assert copied(manager).session_id == "session-1"
    copied(manager.__class__("session-1"))


def test_a_copy_that_fails_says_so_once(options, recwarn):
    storage = StrandsStorage(**options)  # its session can't be pickled

    with pytest.raises(AttributeError):
        copied_by_pickle(storage)
    gc.collect()

    assert list(recwarn) == []


@pytest.mark.parametrize("key", ["", "/", "a/../b", "..", "a\\b"])
@pytest.mark.parametrize("operation", ["read", "delete", "write"])
async def test_a_key_that_the_sdk_refuses_is_refused(key, operation, storage, no_threads):
    arguments = [b"data"] if operation == "write" else []

    with pytest.raises(snapstore.InvalidIdentifierError) as caught:
        await getattr(storage, operation)(key, *arguments)

    assert isinstance(caught.value, SDKStorageError)
    assert no_threads() == []


def test_a_prefix_that_the_sdk_refuses_is_refused(options):
    with pytest.raises(SDKStorageError, match="not allowed"):
        StrandsStorage(**options | {"prefix": "a/../b"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dialect": "java"}, "dialect must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"max_snapshot_bytes": 0}, "max_snapshot_bytes must be"),
        ({"max_concurrency": 0}, "max_concurrency must be"),
        ({"bucket": "s3://bucket"}, "the name alone"),
        ({"kms_key_id": "key"}, "kms_key_id needs"),
    ],
)
def test_arguments_are_checked_when_it_is_made(wrong, message, options):
    with pytest.raises(ValueError, match=message):
        StrandsStorage(**options | wrong)


@pytest.mark.parametrize("name", ["regoin", "client"])
def test_an_argument_that_there_is_not_is_a_type_error_that_names_it(name, options):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        StrandsStorage(**options | {name: None})


async def test_listings_are_in_order_on_each_store(storage):
    keys = ["a/b", "a-b", "a/bc", "b/c", "a.b", "ä", "🌧️", "a/B"]
    await asyncio.gather(*(storage.write(key, b"") for key in keys))

    assert await storage.list("") == sorted(keys)
    assert await storage.list("//a//b") == ["a/b", "a/bc"]
    assert await storage.list("a/", start_after="a/B", limit=1) == ["a/b"]
    assert await storage.list("no") == []


# A path of a file can't be that of a directory, too.
async def test_listings_are_of_full_keys_in_order(storage, s3_server):
    keys = ["a/b", "a-b", "a/b/c", "b", "a.b", "ä", "🌧️", "a/B"]
    await asyncio.gather(*(storage.write(key, b"") for key in keys))

    assert await storage.list("") == sorted(keys)
    assert await storage.list() == sorted(keys)
    assert await storage.list("a/") == ["a/B", "a/b", "a/b/c"]
    assert await storage.list("//a//b") == ["a/b", "a/b/c"]
    assert await storage.list("no") == []


async def test_a_page_of_a_listing_is_one_request(make_storage, proxy):
    storage = make_storage(endpoint_url=proxy.endpoint_url)
    await asyncio.gather(*(storage.write(f"a/{number:03}", b"") for number in range(50)))
    proxy.requests.clear()

    page = await storage.list("a/", start_after="a/019", limit=10)

    assert page == [f"a/{number:03}" for number in range(20, 30)]
    assert proxy.operations == ["ListObjectsV2"]
    assert await storage.list("a/", limit=0) == []
    assert proxy.operations == ["ListObjectsV2"]


async def test_a_long_listing_is_whole(storage):
    keys = [f"k/{number:04}" for number in range(1100)]
    await asyncio.gather(*(storage.write(key, b"") for key in keys))

    assert await storage.list("k/") == keys

    await asyncio.gather(*(storage.delete(key) for key in keys))
    assert await storage.list("k/") == []


async def test_a_namespace_is_a_view_of_what_lies_under_it(storage):
    view = storage.namespace("/memory//agent/")
    await view.write("notes.md", b"dark mode")
    await storage.write("memory/agents/notes.md", b"dark mode")

    assert await view.list("") == ["notes.md"]
    assert await storage.read("memory/agent/notes.md") == b"dark mode"
    assert await storage.namespace("memory").namespace("agent").read("notes.md") == b"dark mode"
    assert [found.key for found in await view.search("memory dark")] == ["notes.md"]


async def test_a_namespace_is_of_the_same_class_with_the_same_client(storage, no_threads):
    await storage.write("a", b"")
    view = storage.namespace("n")
    await view.write("a", b"")

    assert isinstance(view, StrandsStorage)
    assert isinstance(view, strands.storage.Storage)
    assert len([name for name in no_threads() if not name.rpartition("_")[2].isdigit()]) == 1


async def test_a_namespace_is_open_while_its_origin_is(storage):
    view = storage.namespace("n")
    with view as same, view.namespace("m") as inner:
        assert same is view
        await inner.write("a", b"")
    view.close()
    copy.copy(view).close()

    assert await view.list("") == ["m/a"]
    storage.close()
    with pytest.raises(snapstore.StorageClosedError):
        await view.read("m/a")


@pytest.mark.parametrize(
    "name", ["", "/", "..", "a/../b", "a\\b", "a\n", "\x7f", "a\ud83c", "x" * 1024, "é" * 512]
)
def test_a_namespace_that_can_not_be_part_of_a_key_is_refused(name, storage, no_threads):
    for origin in (storage, storage.namespace("n")):
        with pytest.raises(snapstore.InvalidIdentifierError) as caught:
            origin.namespace(name)

    assert isinstance(caught.value, SDKStorageError)
    assert caught.value.__context__ is None
    assert no_threads() == []


async def test_the_longest_namespace_has_room_for_a_key(options, make_storage):
    name = "x" * (1024 - len(f"{options['prefix']}//a"))
    view = make_storage().namespace(name)
    with pytest.raises(snapstore.InvalidIdentifierError, match="too long"):
        make_storage().namespace(f"{name}x")

    await view.write("a", b"x")
    assert await view.read("a") == b"x"


async def test_a_search_is_for_words(storage):
    await storage.write("deploy.md", b"blue green deploys")
    await storage.write("theme.md", b"dark mode for the blue theme")

    results = await storage.search("a blue theme")

    assert [(found.key, found.score) for found in results] == [("theme.md", 2), ("deploy.md", 1)]


async def test_a_search_strategy_is_told_of_writes_and_asked(make_storage):
    indexed = []

    class Strategy:
        async def index(self, storage, key, data, **kwargs):
            indexed.append((key, data))

        async def search(self, storage, query, **kwargs):
            return [StorageSearchResult(key=query, score=1.0)]

    storage = make_storage(search_strategy=Strategy())
    await storage.namespace("n").write("/a", b"x")
    await storage.create("b", b"y")

    assert indexed == [("a", b"x"), ("b", b"y")]
    assert [found.key for found in await storage.search("q")] == ["q"]


async def test_a_strategy_that_fails_is_an_error_of_both_kinds(make_storage):
    class Strategy:
        async def index(self, storage, key, data, **kwargs):
            raise RuntimeError("no room")

    storage = make_storage(search_strategy=Strategy())

    with pytest.raises(SDKStorageError, match="written, but not indexed") as caught:
        await storage.write("a", b"x")

    assert isinstance(caught.value, snapstore.StorageError)
    assert await storage.read("a") == b"x"


async def test_deletes_at_the_same_time_are_few_requests(make_storage, proxy):
    storage = make_storage(endpoint_url=proxy.endpoint_url)
    keys = [f"d/{number}" for number in range(300)]
    await asyncio.gather(*(storage.write(key, b"") for key in keys))
    proxy.requests.clear()

    async with asyncio.timeout(20):
        await asyncio.gather(*(storage.delete(key) for key in keys))

    assert set(proxy.operations) == {"DeleteObjects"}
    assert len(proxy.operations) <= 10
    assert await storage.list("d/") == []


async def test_each_delete_has_its_own_outcome(make_storage, proxy, options):
    storage = make_storage(endpoint_url=proxy.endpoint_url)
    await asyncio.gather(*(storage.write(key, b"") for key in "abc"))

    async def refuse_b(request):
        if request.operation != "DeleteObjects":
            return None
        keys = [key for key in "abc" if f"/{key}<".encode() in request.body]
        reply = "".join(
            f"<Error><Key>{options['prefix']}/b</Key><Code>AccessDenied</Code></Error>"
            if key == "b"
            else f"<Deleted><Key>{options['prefix']}/{key}</Key></Deleted>"
            for key in keys
        )
        return Fault(forward=False, body=f"<DeleteResult>{reply}</DeleteResult>".encode())

    proxy.fault = refuse_b
    outcomes = await asyncio.gather(*map(storage.delete, "abcb"), return_exceptions=True)

    assert [type(outcome).__name__ for outcome in outcomes] == [
        "NoneType",
        "PartialDeleteError",
        "NoneType",
        "PartialDeleteError",
    ]
    assert outcomes[1].failed == {f"{options['prefix']}/b": "AccessDenied"}
    assert isinstance(outcomes[1], SDKStorageError)


async def test_a_request_of_deletes_that_fails_fails_all_of_them(make_storage, proxy):
    storage = make_storage(endpoint_url=proxy.endpoint_url)

    async def fail(request):
        return Fault(forward=False, status=403, body=b"<Error><Code>AccessDenied</Code></Error>")

    proxy.fault = fail
    outcomes = await asyncio.gather(*map(storage.delete, "abc"), return_exceptions=True)

    assert all(isinstance(outcome, snapstore.AccessDeniedError) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3


async def test_a_delete_that_is_cancelled_leaves_the_others_alone(make_storage, proxy):
    storage = make_storage(endpoint_url=proxy.endpoint_url)
    await asyncio.gather(*(storage.write(key, b"") for key in "abc"))

    arrived, go = asyncio.Event(), asyncio.Event()

    async def hold(_):
        arrived.set()
        await go.wait()

    proxy.fault = hold
    first = asyncio.create_task(storage.delete("a"))
    await arrived.wait()
    rest = [asyncio.create_task(storage.delete(key)) for key in "bc"]
    await asyncio.sleep(0)
    first.cancel()
    rest[0].cancel()
    go.set()
    await asyncio.wait([first, *rest])

    assert first.cancelled()
    assert rest[0].cancelled()
    assert rest[1].result() is None
    assert "c" not in await storage.list("")


async def test_a_snapshot_is_written_in_the_dialect_asked_for(make_storage, stored):
    python, typescript = make_storage(), make_storage(dialect="typescript")

    await typescript.write(LATEST, OF_PYTHON)
    assert json.loads(await stored.read(LATEST)) == json.loads(OF_TYPESCRIPT)
    assert json.loads(await typescript.read(LATEST)) == json.loads(OF_PYTHON)
    assert json.loads(await python.read(LATEST)) == json.loads(OF_PYTHON)
    await python.write(LATEST, await python.read(LATEST))
    assert json.loads(await stored.read(LATEST)) == json.loads(OF_PYTHON)
    await python.write(LATEST, OF_TYPESCRIPT)
    assert json.loads(await stored.read(LATEST)) == json.loads(OF_PYTHON)


async def test_a_large_snapshot_is_translated_too(make_storage):
    snapshot = json.loads(OF_PYTHON)
    snapshot["data"]["state"] = {"long": "x" * 400_000}
    document = json.dumps(snapshot).encode()
    storage = make_storage(dialect="typescript")

    await storage.write(LATEST, document)

    assert json.loads(await storage.read(LATEST)) == snapshot


@pytest.mark.parametrize("dialect", ["python", "typescript"])
@pytest.mark.parametrize(
    "key",
    [
        "context/s-1/scopes/agent/weather/call_0",
        "session/s-1/scopes/agent/weather/snapshots/manifest.json",
        "session/s-1/scopes/other/weather/snapshots/snapshot_latest.json",
        "snapshot_latest.json",
    ],
)
@pytest.mark.parametrize("data", [OF_TYPESCRIPT, OF_PYTHON, b"", b"\x00\xff"])
async def test_other_objects_pass_byte_for_byte(key, data, dialect, make_storage, stored):
    storage = make_storage(dialect=dialect)

    await storage.write(key, data)

    assert await stored.read(key) == data
    assert await storage.read(key) == data


@pytest.mark.parametrize("damage", [b"", b"{canary", b"[]", b'{"createdAt": "canary"}', b"\xff"])
async def test_a_snapshot_that_is_none_is_an_error_that_names_its_key(
    damage, storage, s3_client, options
):
    full = f"{options['prefix']}/{LATEST}"
    await s3_client.put_object(Bucket=options["bucket"], Key=full, Body=damage)

    with pytest.raises(snapstore.SnapshotDecodeError) as caught:
        await storage.read(LATEST)

    assert isinstance(caught.value, SDKStorageError)
    assert full in str(caught.value)
    assert caught.value.key == full
    assert "canary" not in str(caught.value) + repr(caught.value.__cause__)


async def test_what_can_not_be_read_is_left_out_of_a_search(storage, s3_client, options):
    full = f"{options['prefix']}/{LATEST}"
    await s3_client.put_object(Bucket=options["bucket"], Key=full, Body=b"{blue")
    await storage.write("theme.md", b"blue")

    assert [found.key for found in await storage.search("blue")] == ["theme.md"]


async def test_an_object_may_be_as_large_as_was_said(make_storage):
    small, large = make_storage(max_snapshot_bytes=10), make_storage()
    await small.write("a", b"x" * 10)
    await large.write("b", b"x" * 11)

    with pytest.raises(ObjectTooLargeError, match="max_snapshot_bytes"):
        await small.write("a", b"x" * 11)
    with pytest.raises(ObjectTooLargeError) as caught:
        await small.read("b")

    assert isinstance(caught.value, SDKStorageError)
    assert await small.read("a") == b"x" * 10


OPERATIONS = {
    "read": lambda storage: storage.read("a"),
    "write": lambda storage: storage.write("a", b"x"),
    "delete": lambda storage: storage.delete("a"),
    "list": lambda storage: storage.list(""),
    "search": lambda storage: storage.search("word"),
    "create": lambda storage: storage.create("a", b"x"),
}
EACH_OPERATION = pytest.mark.parametrize("operation", OPERATIONS)


@EACH_OPERATION
async def test_a_missing_bucket_is_an_error_of_both_kinds(operation, make_storage):
    storage = make_storage(bucket="no-such-bucket")

    with pytest.raises(snapstore.BucketNotFoundError) as caught:
        await OPERATIONS[operation](storage)

    assert isinstance(caught.value, SDKStorageError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value)
    assert str(again) == str(caught.value)
    assert vars(again) == vars(caught.value)
    assert again.bucket == "no-such-bucket"


@EACH_OPERATION
async def test_a_server_that_is_down_is_an_error_of_both_kinds(operation, make_storage):
    storage = make_storage(endpoint_url="http://127.0.0.1:9")

    with pytest.raises(snapstore.StorageUnavailableError) as caught:
        await OPERATIONS[operation](storage)

    assert isinstance(caught.value, SDKStorageError)


@EACH_OPERATION
async def test_a_deadline_that_passes_is_an_error_of_both_kinds(operation, make_storage, proxy):
    async def stall(request):
        return Fault(delay=30)

    proxy.fault = stall
    storage = make_storage(endpoint_url=proxy.endpoint_url, timeout=0.3)

    async with asyncio.timeout(10):
        with pytest.raises(snapstore.StorageTimeoutError) as caught:
            await OPERATIONS[operation](storage)

    assert isinstance(caught.value, SDKStorageError)
    assert isinstance(caught.value, TimeoutError)


@EACH_OPERATION
async def test_a_closed_storage_says_so(operation, make_storage):
    storage = make_storage()
    storage.close()

    with pytest.raises(snapstore.StorageClosedError, match="StrandsStorage is closed") as caught:
        await OPERATIONS[operation](storage)

    assert isinstance(caught.value, SDKStorageError)


async def test_a_client_that_can_not_be_made_is_tried_again(make_storage, monkeypatch):
    storage = make_storage(session=None)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(SDKStorageError, match="nobody"):
        await storage.read("a")
    monkeypatch.delenv("AWS_PROFILE")

    assert await storage.read("a") is None


async def test_a_lost_reply_to_a_create_is_no_failure(make_storage, proxy):
    storage = make_storage(endpoint_url=proxy.endpoint_url)
    await storage.write("warm", b"")

    async def lose_the_first(request):
        puts = [seen for seen in proxy.requests if seen.operation == "PutObject"]
        return Fault(lost=True) if request is puts[-1] and len(puts) == 2 else None

    proxy.fault = lose_the_first
    await storage.create("a", b"x")

    assert await storage.read("a") == b"x"
    with pytest.raises(PreconditionFailedError) as caught:
        await storage.create("a", b"y")
    assert isinstance(caught.value, SDKStorageError)
    assert await storage.read("a") == b"x"
