"""`storage.check()`: what keeps its promises is told from what only looks like it."""

import asyncio
import logging

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from snapstore import (
    AccessDeniedError,
    CheckReport,
    FileStorage,
    Finding,
    MemoryStorage,
    ObjectSnapshotStorage,
    S3Storage,
    StorageClosedError,
    StorageError,
    UnsupportedOperationError,
)
from snapstore.cli import main
from snapstore.stores import StoredObject, Version
from snapstore.stores.memory import MemoryObjectStore
from snapstore.stores.s3.client import HTTPSession
from snapstore.testing.proxy import Fault, recording_proxy
from snapstore.testing.server import create_bucket

PROMISES = ["write", "read", "list", "create-only", "compare-and-swap", "delete"]
OF_FILES = ["locks", "replacing", "permissions"]


def statuses(report: CheckReport) -> dict[str, str]:
    return {finding.check: finding.status for finding in report.findings}


@pytest.fixture
def own_settings(s3_server, monkeypatch):
    """Have clients of our own find the server by the environment."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)


async def keys_in(client, bucket, prefix="") -> list[str]:
    reply = await client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    return [found["Key"] for found in reply.get("Contents", ())]


async def test_memory_and_files_keep_every_promise_and_nothing_stays(tmp_path) -> None:
    async with MemoryStorage() as memory, FileStorage(tmp_path / "root") as files:
        for storage, more in ((memory, []), (files, OF_FILES)):
            report = await storage.check()
            found = statuses(report)
            for of_this_machine in ("durability", "hosts"):
                found.pop(of_this_machine, None)
            assert found == dict.fromkeys([*PROMISES, *more], "ok")
            assert report.ok
    assert list((tmp_path / "root").iterdir()) == []


async def test_a_real_server_keeps_every_promise_and_nothing_stays(
    own_settings, s3_client, bucket, prefix
) -> None:
    async with S3Storage(bucket, prefix=prefix) as storage:
        report = await storage.check()
    assert {name: report[name].status for name in PROMISES} == dict.fromkeys(PROMISES, "ok")
    assert report.ok
    for name in ("single writes", "metadata", "if-match", "versioning", "batch delete", "client"):
        assert report[name].status == "ok", report[name]
    assert await keys_in(s3_client, bucket, prefix) == []


async def test_a_report_is_a_table_of_one_line_each(own_settings, bucket, prefix) -> None:
    async with S3Storage(bucket, prefix=prefix) as storage:
        lines = str(await storage.check()).splitlines()
    assert [line[9:25].strip() for line in lines] == [
        *PROMISES,
        *("single writes", "metadata", "if-match", "keys", "versioning", "encryption"),
        *("batch delete", "client", "fast path"),
    ]
    assert lines[0] == "ok       write             objects can be written"


def test_a_report_knows_only_what_was_tried() -> None:
    report = CheckReport((Finding("read", "failed", "no"),))
    assert not report.ok
    with pytest.raises(KeyError, match="write"):
        report["write"]


async def test_a_bucket_that_does_not_exist_fails_at_once(own_settings, s3_server) -> None:
    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        S3Storage("not-there", endpoint_url=proxy.endpoint_url) as storage,
    ):
        report = await storage.check()
        assert report["write"].status == "failed"
        assert "the bucket does not exist" in report["write"].message
        assert {report[name].status for name in PROMISES[1:]} == {"unknown"}
        assert not report.ok
        assert proxy.operations == ["PutObject", "PutObject"]


@pytest.mark.seaweedfs
async def test_encryption_that_is_asked_for_must_be_confirmed(
    own_settings, s3_server, bucket, prefix
) -> None:
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        own = {"prefix": prefix, "endpoint_url": proxy.endpoint_url}
        async with S3Storage(bucket, server_side_encryption="AES256", **own) as storage:
            assert (await storage.check())["encryption"].status == "ok"

            async def forget(request):
                return Fault(headers={"x-amz-server-side-encryption": None})

            proxy.fault = forget
            finding = (await storage.check())["encryption"]
            assert finding.status == "failed"
            assert "confirms nothing" in finding.message
        async with S3Storage(bucket, **own) as storage:
            assert (await storage.check())["encryption"].status == "warning"


async def test_another_kms_key_than_the_one_asked_for_is_found_out(
    own_settings, s3_server, bucket, prefix
) -> None:
    keys = ["our-key"]

    async def confirm(request):
        confirmed = {
            "x-amz-server-side-encryption": "aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id": f"arn:aws:kms:eu:1:key/{keys[-1]}",
        }
        if request.operation == "PutObject":
            return Fault(forward=False, headers={"ETag": '"e"', **confirmed})
        return None

    async with recording_proxy(s3_server.endpoint_url) as proxy:
        proxy.fault = confirm
        async with S3Storage(
            bucket,
            prefix=prefix,
            endpoint_url=proxy.endpoint_url,
            server_side_encryption="aws:kms",
            kms_key_id="our-key",
        ) as storage:
            assert (await storage.check())["encryption"].status == "ok"
            keys.append("their-key")
            assert (await storage.check())["encryption"].status == "failed"


async def test_versions_are_told_of_and_those_of_the_check_are_removed(
    own_settings, s3_server, s3_client
) -> None:
    create_bucket(s3_server, "versioned-bucket")
    await s3_client.put_bucket_versioning(
        Bucket="versioned-bucket", VersioningConfiguration={"Status": "Enabled"}
    )
    async with S3Storage("versioned-bucket") as storage:
        finding = (await storage.check())["versioning"]
    assert finding.status == "warning"
    assert "the bucket is versioned" in finding.message
    reply = await s3_client.list_object_versions(Bucket="versioned-bucket")
    assert reply.get("Versions", []) + reply.get("DeleteMarkers", []) == []


async def test_versions_that_can_not_be_removed_are_told_of(
    own_settings, s3_server, s3_client
) -> None:
    create_bucket(s3_server, "kept-versions")
    await s3_client.put_bucket_versioning(
        Bucket="kept-versions", VersioningConfiguration={"Status": "Enabled"}
    )

    async def refuse(request):
        return Fault.error(403, "AccessDenied") if "versionId" in request.query else None

    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        S3Storage("kept-versions", endpoint_url=proxy.endpoint_url) as storage,
    ):
        proxy.fault = refuse
        finding = (await storage.check())["versioning"]
    assert finding.status == "warning"
    assert "those of this check stay" in finding.message


@pytest.mark.ceph
async def test_check_finds_ignored_conditions_in_a_versioned_bucket(
    own_settings, s3_server, s3_client
) -> None:
    create_bucket(s3_server, "versioned-ceph")
    await s3_client.put_bucket_versioning(
        Bucket="versioned-ceph", VersioningConfiguration={"Status": "Enabled"}
    )
    async with S3Storage("versioned-ceph") as storage:
        report = await storage.check()
    assert report["versioning"].status == "warning"
    assert report["create-only"].status == "failed"
    assert "accepted, but not enforced" in report["create-only"].message


@pytest.mark.swift
async def test_a_server_whose_conditions_are_not_atomic_is_found_out(own_settings, bucket) -> None:
    async with S3Storage(bucket) as storage:
        # Races are won by chance: most have more than one winner, and fewer on a busy machine.
        for _ in range(20):
            report = await storage.check()
            assert not report.ok
            assert "if_match and update_latest fail" in report["compare-and-swap"].message
            assert "501" in report["compare-and-swap"].message
            if "not atomic" in report["create-only"].message:
                break
    assert "not atomic" in report["create-only"].message


async def test_check_names_what_a_borrowed_client_lacks(s3_server, bucket, prefix, caplog) -> None:
    async with (
        get_session().create_client("s3", **s3_server.client_options) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        finding = (await storage.check())["client"]
    assert finding.status == "warning"
    for words in ("owner", "follows redirects", "replies of any size", "'legacy'", "pool of 10"):
        assert words in finding.message
    assert [(record.name, record.levelno) for record in caplog.records] == [
        ("snapstore", logging.WARNING)
    ]
    assert "follows redirects" in caplog.text


async def test_a_borrowed_client_that_is_like_ours_is_fine(
    s3_server, bucket, prefix, caplog
) -> None:
    config = AioConfig(
        http_session_cls=HTTPSession, retries={"mode": "standard"}, max_pool_connections=128
    )
    async with (
        get_session().create_client("s3", config=config, **s3_server.client_options) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        assert (await storage.check())["client"].status == "ok"
    assert caplog.records == []


async def report_behind(proxy, bucket, prefix, fault, **options) -> CheckReport:
    """The report on a server behind a proxy that does this."""
    proxy.fault = fault
    async with S3Storage(
        bucket, prefix=prefix, endpoint_url=proxy.endpoint_url, **options
    ) as storage:
        return await storage.check()


@pytest.fixture
async def proxy(own_settings, s3_server):
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        yield proxy


async def test_a_gateway_that_sends_a_write_again_is_found_out(
    proxy, s3_client, bucket, prefix
) -> None:
    async def send_twice(request):
        """Have the first one applied, and let the second one pass."""
        if request.operation == "PutObject" and request.path.endswith("/sent-once.json"):
            metadata = {
                name[11:]: value
                for name, value in request.headers.items()
                if name.lower().startswith("x-amz-meta-")
            }
            key = request.path.removeprefix(f"/{bucket}/")
            await s3_client.put_object(Bucket=bucket, Key=key, Body=request.body, Metadata=metadata)

    report = await report_behind(proxy, bucket, prefix, send_twice)
    assert report["single writes"].status == "warning"
    assert "proxy_next_upstream" in report["single writes"].message
    assert report.ok
    assert await keys_in(s3_client, bucket, prefix) == []


async def test_check_takes_no_other_error_for_a_failed_condition(proxy, bucket, prefix) -> None:
    async def refuse_conditions(request):
        if "If-None-Match" in request.headers:
            return Fault.error(501, "NotImplemented")
        return None

    report = await report_behind(proxy, bucket, prefix, refuse_conditions)
    assert report["single writes"].status == "unknown"
    assert "NotImplemented" in report["single writes"].message
    assert report["metadata"].status == "ok"


async def test_a_gateway_that_strips_metadata_is_found_out(proxy, bucket, prefix) -> None:
    async def strip(request):
        headers = {"x-amz-meta-snapstore-write": None, "x-amz-meta-snapstore-lineage": None}
        return Fault(headers=headers) if request.operation == "HeadObject" else None

    report = await report_behind(proxy, bucket, prefix, strip)
    assert report["metadata"].status == "failed"
    assert "x-amz-meta-" in report["metadata"].message
    assert not report.ok


async def test_a_server_that_allows_no_head_is_found_out(proxy, bucket, prefix) -> None:
    async def forbid(request):
        return Fault.error(403, "") if request.operation == "HeadObject" else None

    report = await report_behind(proxy, bucket, prefix, forbid)
    assert report["metadata"].status == "failed"
    assert "HEAD is refused (403)" in report["metadata"].message


QUOTED = '"'


@pytest.mark.seaweedfs  # Ceph takes no quotes by itself
@pytest.mark.parametrize(
    ("refused", "status", "words"),
    [
        ([True], "ok", "etags are taken without quotes, not with quotes (InvalidArgument)"),
        ([False], "ok", "etags are taken with quotes, not without quotes (InvalidArgument)"),
        ([True, False], "failed", "if_match and update_latest fail"),
        ([], "ok", "etags are taken with quotes and without quotes"),
    ],
)
async def test_the_form_of_etags_that_a_server_takes_is_told(
    refused, status, words, proxy, bucket, prefix
) -> None:
    async def refuse(request):
        etag = request.headers.get("If-Match")
        if etag is not None and etag.startswith(QUOTED) in refused:
            return Fault.error(400, "InvalidArgument")
        return None

    finding = (await report_behind(proxy, bucket, prefix, refuse))["if-match"]
    assert finding.status == status
    assert words in finding.message


@pytest.mark.seaweedfs  # it makes one "/" of two, and of "\\"
@pytest.mark.parametrize(
    ("within", "status", "words"),
    [("", "warning", "no prefix may have that"), ("/a//b", "failed", "choose another prefix")],
)
async def test_a_server_that_makes_other_keys_is_found_out(
    within, status, words, own_settings, s3_client, bucket, prefix
) -> None:
    async with S3Storage(bucket, prefix=f"{prefix}{within}") as storage:
        finding = (await storage.check())["keys"]
    assert finding.status == status
    assert "// or \\" in finding.message
    assert words in finding.message
    assert await keys_in(s3_client, bucket, prefix) == []


async def test_check_reports_what_it_found_before_it_failed(proxy, bucket, prefix) -> None:
    async def fail(request):
        if request.operation == "PutObject" and "If-Match" in request.headers:
            inspected = request.path.endswith("/inspected.json")
            return Fault(lost=True, forward=False) if inspected else None
        return None

    report = await report_behind(
        proxy, bucket, prefix, fail, config=AioConfig(retries={"total_max_attempts": 1})
    )
    assert report["metadata"].status == "ok"
    assert report["if-match"].status == report["keys"].status == "unknown"
    assert "\n" not in report["keys"].message


async def test_what_can_not_be_deleted_together_is_deleted_one_by_one() -> None:
    class OnlyAlone(MemoryObjectStore):
        async def delete(self, keys):
            if len(keys) > 1:
                raise StorageError("503 SlowDown")
            return await super().delete(keys)

    store = OnlyAlone()
    async with ObjectSnapshotStorage(store) as storage:
        report = await storage.check()
    assert report["delete"].status == "failed"
    assert "was deleted one by one" in report["delete"].message
    assert store.objects == {}


async def test_check_counts_what_it_cannot_delete() -> None:
    class Sticky(MemoryObjectStore):
        stuck = True

        async def delete(self, keys):
            return dict.fromkeys(keys, "AccessDenied") if self.stuck else await super().delete(keys)

    store = Sticky()
    async with ObjectSnapshotStorage(store) as storage:
        report = await storage.check()
        left = len(store.objects)
        # Of those that it tried to write, one was refused.
        assert f"up to {left + 1} objects of this check stay" in report["delete"].message
        [session_id] = {key.split("/")[0] for key in store.objects}
        store.stuck = False
        assert (await storage.delete_session(session_id=session_id)).objects == left
    assert store.objects == {}


class Ignoring(MemoryObjectStore):
    """Accepts conditions and ignores them."""

    async def put(self, key, data, *, if_match=None, if_none_match=False):
        return await super().put(key, data)


class IgnoringUpdates(MemoryObjectStore):
    async def put(self, key, data, *, if_match=None, if_none_match=False):
        return await super().put(key, data, if_none_match=if_none_match)


class NotAtomic(MemoryObjectStore):
    """Looks first and writes then, as OpenStack Swift does behind its S3 interface."""

    async def put(self, key, data, *, if_match=None, if_none_match=False):
        if if_match is None and not if_none_match:
            return await super().put(key, data)
        before = self.objects.get(key)
        await super().put(key, data, if_match=if_match, if_none_match=if_none_match)
        if before is None:
            del self.objects[key]
        else:
            self.objects[key] = before
        await asyncio.sleep(0)
        return await super().put(key, data)


class Refusing(MemoryObjectStore):
    async def put(self, key, data, *, if_match=None, if_none_match=False):
        if if_match is not None or if_none_match:
            raise UnsupportedOperationError("501 NotImplemented", key=key)
        return await super().put(key, data)


class Busy(MemoryObjectStore):
    """Tells the losers of a race that it has failed, as Ceph sometimes does."""

    async def put(self, key, data, *, if_match=None, if_none_match=False):
        try:
            return await super().put(key, data, if_match=if_match, if_none_match=if_none_match)
        except StorageError as error:
            if b"racer" in data:
                raise StorageError("500 InternalError", key=key) from error
            raise


class Forgetful(MemoryObjectStore):
    async def get(self, key, *, max_bytes):
        return None


class Inventive(MemoryObjectStore):
    async def get(self, key, *, max_bytes):
        found = await super().get(key, max_bytes=max_bytes)
        return found or StoredObject(b"{}", Version("e"))


class Secretive(MemoryObjectStore):
    """Refuses to say whether an object exists: no s3:ListBucket."""

    async def get(self, key, *, max_bytes):
        found = await super().get(key, max_bytes=max_bytes)
        if found is None:
            raise AccessDeniedError("403 AccessDenied", key=key)
        return found


class NotListing(MemoryObjectStore):
    async def scan(self, prefix, *, start_after=None, page_size=1000):
        raise AccessDeniedError("403 AccessDenied", key=prefix)
        yield []


class LateListing(MemoryObjectStore):
    async def scan(self, prefix, *, start_after=None, page_size=1000):
        yield []


class WithoutCursor(MemoryObjectStore):
    async def scan(self, prefix, *, start_after=None, page_size=1000):
        yield sorted(key for key in self.objects if key.startswith(prefix))


class Undeletable(MemoryObjectStore):
    async def delete(self, keys):
        return dict.fromkeys(keys, "AccessDenied")


class LyingDelete(MemoryObjectStore):
    async def delete(self, keys):
        return {}


@pytest.mark.parametrize(
    ("store", "about", "words"),
    [
        (Ignoring, "create-only", "accepted, but not enforced: history can be overwritten"),
        (Ignoring, "compare-and-swap", "accepted, but not enforced"),
        (IgnoringUpdates, "compare-and-swap", "accepted, but not enforced"),
        (NotAtomic, "create-only", "not atomic: of 5 writers at once 5 won"),
        (NotAtomic, "compare-and-swap", "not atomic: of 5 writers at once 5 won"),
        (Refusing, "create-only", "saving to history and checkpoints fail: 501"),
        (Refusing, "compare-and-swap", "if_match and update_latest fail: 501"),
        (Forgetful, "read", "what was written is not what is read"),
        (Inventive, "read", "never written"),
        (Secretive, "read", "allow s3:ListBucket"),
        (NotListing, "list", "history can't be listed, nor a session deleted: 403"),
        (LateListing, "list", "does not show in order what was just written"),
        (WithoutCursor, "list", "start_after is ignored"),
        (Undeletable, "delete", "were not deleted: "),
        (LyingDelete, "delete", "confirmed as deleted, and can still be read"),
    ],
)
async def test_a_store_that_breaks_a_promise_is_found_out(store, about, words) -> None:
    async with ObjectSnapshotStorage(store()) as storage:
        report = await storage.check()
    assert not report.ok
    assert report[about].status == "failed"
    assert words in report[about].message
    assert "\n" not in report[about].message


async def test_races_that_nobody_wins_prove_nothing() -> None:
    class AllBusy(MemoryObjectStore):
        async def put(self, key, data, *, if_match=None, if_none_match=False):
            if b"racer" in data:
                raise StorageError("503 SlowDown", key=key)
            return await super().put(key, data, if_match=if_match, if_none_match=if_none_match)

    async with ObjectSnapshotStorage(AllBusy()) as storage:
        report = await storage.check()
    assert (report["create-only"].status, report["compare-and-swap"].status) == ("unknown",) * 2
    assert "none got through" in report["create-only"].message


async def test_check_removes_what_it_wrote_if_a_write_fails() -> None:
    class FullSoon(MemoryObjectStore):
        async def put(self, key, data, *, if_match=None, if_none_match=False):
            if self.objects:
                raise StorageError("507", key=key)
            return await super().put(key, data)

    store = FullSoon()
    async with ObjectSnapshotStorage(store) as storage:
        report = await storage.check()
    assert (report["write"].status, report["delete"].status) == ("failed", "ok")
    assert store.objects == {}


async def test_an_inspection_that_does_not_end_costs_no_other_finding() -> None:
    class Slow(MemoryObjectStore):
        async def inspect(self, key):
            await asyncio.Event().wait()

    async with ObjectSnapshotStorage(Slow(), timeout=1.0) as storage:
        report = await storage.check()
    assert report.ok
    assert report["inspection"].status == "unknown"


async def test_losers_of_a_race_that_get_another_error_have_not_won() -> None:
    async with ObjectSnapshotStorage(Busy()) as storage:
        assert (await storage.check()).ok


async def test_a_store_that_hangs_is_reported_at_the_deadline() -> None:
    class Hanging(MemoryObjectStore):
        async def scan(self, prefix, *, start_after=None, page_size=1000):
            await asyncio.Event().wait()
            yield []

    async with ObjectSnapshotStorage(Hanging(), timeout=1.0) as storage:
        report = await storage.check()
    assert {name for name, status in statuses(report).items() if status == "failed"} == {"list"}
    assert "deadline" in report["list"].message


@pytest.mark.parametrize("kind", [pytest.param("s3", marks=pytest.mark.s3), "file", "memory"])
async def test_a_read_only_check_writes_nothing(kind, request, tmp_path) -> None:
    if kind == "s3":
        server = request.getfixturevalue("s3_server")
        bucket, prefix = request.getfixturevalue("bucket"), request.getfixturevalue("prefix")
        async with recording_proxy(server.endpoint_url) as proxy:
            options = server.storage_options | {"endpoint_url": proxy.endpoint_url}
            async with S3Storage(bucket, prefix=prefix, **options) as storage:
                report = await storage.check(read_only=True)
            operations = {request.operation for request in proxy.requests}
        assert operations == {"GetObject", "ListObjectsV2"}
    else:
        storage = FileStorage(tmp_path / "root") if kind == "file" else MemoryStorage()
        async with storage:
            report = await storage.check(read_only=True)
        assert not (tmp_path / "root").exists()
    assert [name for name, status in statuses(report).items() if status == "ok"] == ["read", "list"]
    assert set(statuses(report).values()) == {"ok", "unknown"}


async def test_a_closed_storage_checks_nothing() -> None:
    with pytest.raises(StorageClosedError):
        await MemoryStorage().check()


def test_the_command_prints_the_report(own_settings, bucket, prefix, capsys) -> None:
    assert main(["check", f"s3://{bucket}/{prefix}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:6]] == PROMISES


def test_the_command_fails_where_a_promise_does_not_hold(own_settings, capsys) -> None:
    assert main(["check", "s3://not-there"]) == 1
    assert "the bucket does not exist" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[f"s3://bucket/{'x' * 1000}"], ["s3://bucket", "--endpoint-url", "localhost"]]
)
def test_the_command_refuses_wrong_arguments(arguments, capsys) -> None:
    assert main(["check", *arguments]) == 2
    assert "Usage: snapstore check" in capsys.readouterr().err


def test_the_command_says_in_one_line_why_it_can_not_begin(monkeypatch, capsys) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert main(["check", "s3://bucket"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
