"""The proxy: all that it can do to a request and to its reply, and that else it does nothing."""

import asyncio
import socket

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from scripted import serving
from snapstore.testing.proxy import Fault, recording_proxy

BODY = b"0123456789" * 10
NEVER = 3600.0
"""Seconds that no test waits for."""


class Server:
    """What is behind the proxy: it answers each GET with `BODY`, and remembers who asked."""

    def __init__(self):
        self.arrived = []
        self.chunked = False

    async def answer(self, request):
        self.arrived.append((request.method, request.raw_path, await request.read()))
        if not self.chunked:
            return web.Response(body=BODY, headers={"ETag": '"e"', "x-amz-meta-Name": "value"})
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(BODY)
        return response


@pytest.fixture
async def proxied():
    """A proxy, the server behind it, and a client in front of it."""
    server = Server()
    async with serving(server.answer) as target, recording_proxy(target) as proxy:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(proxy.endpoint_url, connector=connector) as client:
            yield proxy, server, client


def always(proxy, fault):
    async def same(_):
        return fault

    proxy.fault = same


async def test_without_a_fault_requests_and_replies_pass_as_they_are(proxied) -> None:
    proxy, server, client = proxied
    url = URL(f"{proxy.endpoint_url}/bucket/a%20key?x=%2F", encoded=True)
    async with client.put(url, data=b"sent") as reply:
        assert (reply.status, await reply.read()) == (200, BODY)
        assert reply.headers["Content-Length"] == "100"
        assert reply.headers["x-amz-meta-Name"] == "value"
    (request,) = proxy.requests
    assert (request.operation, request.method, request.body) == ("PutObject", "PUT", b"sent")
    assert (request.path, dict(request.query)) == ("/bucket/a%20key", {"x": "/"})
    assert request.headers["content-length"] == "4"
    assert server.arrived == [("PUT", "/bucket/a%20key?x=%2F", b"sent")]


async def test_the_length_that_a_reply_to_head_tells_passes_too(proxied) -> None:
    _, _, client = proxied
    async with client.head("/bucket/key") as reply:
        assert (reply.headers["Content-Length"], await reply.read()) == ("100", b"")


async def test_a_chunked_reply_stays_chunked_and_the_connection_in_use(proxied) -> None:
    _, server, client = proxied
    server.chunked = True
    for _ in range(2):
        async with client.get("/bucket/key") as reply:
            assert await reply.read() == BODY
            assert reply.headers["Transfer-Encoding"] == "chunked"
            assert "Content-Length" not in reply.headers


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("GET", "/bucket/a/key", "GetObject"),
        ("HEAD", "/bucket/a/key", "HeadObject"),
        ("PUT", "/bucket/a/key", "PutObject"),
        ("DELETE", "/bucket/a/key", "DeleteObject"),
        ("GET", "/bucket?list-type=2", "ListObjectsV2"),
        ("POST", "/bucket?delete", "DeleteObjects"),
        ("HEAD", "/bucket", "HeadBucket"),
        ("PUT", "/bucket", "PutBucket"),
    ],
)
async def test_it_tells_which_operation_a_request_is(proxied, method, path, operation) -> None:
    proxy, _, client = proxied
    async with client.request(method, path):
        assert proxy.operations == [operation]


async def test_proxy_answers_with_any_status_headers_and_body(proxied) -> None:
    proxy, server, client = proxied
    always(proxy, Fault(forward=False, status=418, headers={"X-A": "1"}, body=b"tea"))
    async with client.get("/bucket/key") as reply:
        assert (reply.status, reply.headers["X-A"], await reply.read()) == (418, "1", b"tea")
    always(proxy, Fault(forward=False))
    async with client.get("/bucket/key") as reply:
        assert (reply.status, await reply.read()) == (200, b"")
    always(proxy, Fault.error(503, "SlowDown", headers={"Retry-After": "1"}))
    async with client.get("/bucket/key") as reply:
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert await reply.text() == "<Error><Code>SlowDown</Code></Error>"
    assert server.arrived == []


async def test_it_changes_the_servers_reply_and_leaves_the_rest_of_it(proxied) -> None:
    proxy, server, client = proxied
    headers = {"X-AMZ-Meta-name": "forged", "ETag": None}
    always(proxy, Fault(status=500, headers=headers, body=b"other"))
    async with client.put("/bucket/key", data=b"sent") as reply:
        assert (reply.status, await reply.read()) == (500, b"other")
        assert reply.headers.getall("x-amz-meta-name") == ["forged"]
        assert "ETag" not in reply.headers
    assert server.arrived == [("PUT", "/bucket/key", b"sent")]


async def test_it_redirects_elsewhere(proxied) -> None:
    proxy, server, client = proxied
    headers = {"Location": "http://127.0.0.1:1/"}
    always(proxy, Fault.error(307, "TemporaryRedirect", headers=headers))
    async with client.get("/bucket/key", allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (307, "http://127.0.0.1:1/")
    assert server.arrived == []


@pytest.mark.parametrize("forward", [False, True])
async def test_proxy_resets_before_or_after_the_server_has_it(proxied, forward) -> None:
    proxy, server, client = proxied
    always(proxy, Fault(lost=True, forward=forward))
    with pytest.raises(aiohttp.ClientOSError, match="reset"):
        await client.post("/bucket/key")
    assert len(server.arrived) == forward
    assert len(proxy.requests) == 1


async def test_cut_body_comes_with_the_length_of_the_whole(proxied) -> None:
    proxy, _, client = proxied
    always(proxy, Fault(cut=20))
    async with client.get("/bucket/key") as reply:
        assert reply.headers["Content-Length"] == "100"
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()


@pytest.mark.parametrize(("cut", "read"), [(20, BODY[:20]), (None, BODY)])
async def test_a_body_without_length_ends_with_the_connection(proxied, cut, read) -> None:
    proxy, _, client = proxied
    always(proxy, Fault(cut=cut, length=False))
    async with client.get("/bucket/key") as reply:
        assert reply.headers["Connection"] == "close"
        assert not {"Content-Length", "Transfer-Encoding"} & set(reply.headers)
        assert await reply.read() == read


async def test_a_chunked_body_that_is_cut_is_seen_to_be(proxied) -> None:
    proxy, server, client = proxied
    server.chunked = True
    always(proxy, Fault(cut=20))
    async with client.get("/bucket/key") as reply:
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()


@pytest.mark.parametrize(("fault", "arrived"), [(Fault(delay=NEVER), 0), (Fault(stall=NEVER), 1)])
async def test_it_delays_before_or_after_the_server_has_the_request(
    proxied, fault, arrived
) -> None:
    proxy, server, client = proxied
    always(proxy, fault)
    waiting = asyncio.create_task(_status(client, "/bucket/key"))
    while not (proxy.requests and len(server.arrived) == arrived):
        await asyncio.sleep(0.01)
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert (done, len(server.arrived)) == (set(), arrived)
    waiting.cancel()


async def test_a_body_drips_sixteen_bytes_at_a_time(proxied) -> None:
    proxy, _, client = proxied
    always(proxy, Fault(drip=0.001))
    async with client.get("/bucket/key") as reply:
        assert await reply.content.readany() == BODY[:16]
        assert await reply.read() == BODY[16:]
    always(proxy, Fault(drip=NEVER))
    async with client.get("/bucket/key") as reply:  # the head comes at once
        assert reply.status == 200


@pytest.mark.parametrize("fault", [Fault(delay=NEVER), Fault(stall=NEVER), Fault(drip=NEVER)])
async def test_closing_it_does_not_wait_for_what_is_delayed(fault, s3_server) -> None:
    async with aiohttp.ClientSession() as client, asyncio.timeout(20.0):
        async with recording_proxy(s3_server.endpoint_url) as proxy:
            always(proxy, fault)
            waiting = asyncio.create_task(_status(client, proxy.endpoint_url))
            while not proxy.requests:
                await asyncio.sleep(0.01)
        with pytest.raises(aiohttp.ClientError):
            await waiting


async def _status(client, url):
    async with client.get(url) as reply:
        await reply.read()
        return reply.status


async def test_client_that_leaves_during_a_reply_does_no_harm(proxied) -> None:
    proxy, _, client = proxied
    always(proxy, Fault(drip=0.001, body=b" " * 10_000))
    for _ in range(3):
        async with client.get("/bucket/key") as reply:
            reply.close()
    always(proxy, None)
    assert await _status(client, "/bucket/key") == 200


async def test_it_listens_on_loopback_only_and_no_longer_than_it_lasts(s3_server) -> None:
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        host, port = proxy.endpoint_url.removeprefix("http://").split(":")
    assert host == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


async def test_a_client_of_s3_works_through_it(s3_server, aws_session, bucket, prefix) -> None:
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        options = s3_server.client_options | {"endpoint_url": proxy.endpoint_url}
        async with aws_session.create_client("s3", **options) as client:
            name = {"Bucket": bucket, "Key": f"{prefix}/ä key"}
            await client.put_object(**name, Body=b"sent", Metadata={"a": "b"})
            head = await client.head_object(**name)
            assert (head["ContentLength"], head["Metadata"]) == (4, {"a": "b"})
            reply = await client.get_object(**name)
            async with reply["Body"] as body:
                assert await body.read() == b"sent"
            page = await client.list_objects_v2(Bucket=bucket, Prefix=prefix)
            assert [found["Key"] for found in page["Contents"]] == [name["Key"]]
            await client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": name["Key"]}]})
        assert proxy.operations == [
            "PutObject",
            "HeadObject",
            "GetObject",
            "ListObjectsV2",
            "DeleteObjects",
        ]
