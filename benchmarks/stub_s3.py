"""A stub of S3, fast enough to be no part of what is measured: a process of its own.

It speaks HTTP/1.1 as S3 does, on a plain port and on a TLS one, and keeps objects in memory. It
checks no signature. Bodies are received into the buffer they stay in, and sent from it. What it is
asked to do goes through `POST /-stub-` as JSON, see `Stub.control`; `stub.py` has the client.

Run as a program, it prints its ports as a line of JSON and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib
import json
import re
import ssl
import sys
import zlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape, unescape

CONTROL = "/-stub-"
SCRATCH = 256 * 1024
SHA256_OF_BODY = re.compile(r"[0-9a-f]{64}")
XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
KEY = re.compile(r"<Key>(.*?)</Key>", re.DOTALL)
REASONS = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    404: "Not Found",
    412: "Precondition Failed",
    501: "Not Implemented",
}


@dataclass
class Knobs:
    """Times in seconds.

    Attributes:
        service_time: From the end of a request to its reply.
        delete_time: The same for DeleteObjects.
        continue_time: From the head of a request to `100 Continue`: its round trip.
        verify: Whether checksums of bodies are compared, not only counted.
    """

    service_time: float = 0.0
    delete_time: float = 0.0
    continue_time: float = 0.0
    verify: bool = True


@dataclass
class Counts:
    """What was done since the last reset.

    Attributes:
        requests: How often each operation was asked for.
        refused: Replies of status 400 and more.
        body_in: Bytes of objects received, without the framing of chunks.
        body_out: Bytes of objects sent.
        checksums: Objects received with a checksum of their body: CRC-32 or SHA-256.
        checked_reads: Objects asked for with their checksum, for the client to compare.
        continues: How often `100 Continue` was asked for.
        by_sdk: Requests that an AWS SDK made: it numbers its calls.
        connections: Connections accepted.
        deleted: Objects deleted.
        stored: Bytes of all objects, as of the last time that they were weighed.
    """

    requests: Counter[str] = field(default_factory=Counter[str])
    refused: int = 0
    body_in: int = 0
    body_out: int = 0
    checksums: int = 0
    checked_reads: int = 0
    continues: int = 0
    by_sdk: int = 0
    connections: int = 0
    deleted: int = 0
    stored: int = 0


class Stored(NamedTuple):
    """An object."""

    body: bytes | bytearray
    etag: str
    modified: str
    crc32: str
    headers: dict[str, str]


class Request(NamedTuple):
    """The head of a request; names of headers are in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @property
    def key(self) -> str:
        """The object's key: what follows the bucket."""
        return unquote(self.path[1:].partition("/")[2])

    @property
    def operation(self) -> str:
        """What S3 calls it."""
        if self.path == CONTROL:
            return "Control"
        if self.path.find("/", 1) in {-1, len(self.path) - 1}:
            if self.method == "GET" and "list-type" in self.query:
                return "ListObjectsV2"
            if self.method == "POST" and "delete" in self.query:
                return "DeleteObjects"
            return "Unknown"
        names = {
            "PUT": "PutObject",
            "GET": "GetObject",
            "HEAD": "HeadObject",
            "DELETE": "DeleteObject",
        }
        return names.get(self.method, "Unknown")


class Reply(NamedTuple):
    """A reply; `body` is sent as it is."""

    status: int
    headers: dict[str, str]
    body: bytes | bytearray = b""


class Chunks:
    """Takes the framing off a chunked body: HTTP's own or the same of `aws-chunked`."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.trailers: dict[str, str] = {}
        self._left = 0  # of this chunk, with the line break after it
        self._last = False

    def feed(self, data: bytearray) -> bool:
        """Take what is whole off the front of `data`; true at the end of the body."""
        while True:
            if self._left > 2:
                taken = min(self._left - 2, len(data))
                self.body += memoryview(data)[:taken]
                del data[:taken]
                self._left -= taken
            if self._left == 2:
                if len(data) < 2:
                    return False
                del data[:2]
                self._left = 0
            if self._left:
                return False
            end = data.find(b"\r\n")
            if end < 0:
                return False
            line = data[:end].decode("latin-1")
            del data[: end + 2]
            if self._last:
                if not line:
                    return True
                name, _, value = line.partition(":")
                self.trailers[name.strip().lower()] = value.strip()
                continue
            size = int(line.partition(";")[0], 16)
            self._last = size == 0
            self._left = size + 2 if size else 0


class Stub:
    """The objects, and what is done with them."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.kept: dict[str, Stored] = {}
        self.knobs = Knobs()
        self.counts = Counts()
        self._sorted: list[str] | None = None
        self._number = 0
        self._answers: dict[str, Callable[[Request, bytes | bytearray], Reply]] = {
            "Control": self.control,
            "PutObject": self._put,
            "GetObject": self._get,
            "HeadObject": self._head,
            "DeleteObject": self._delete,
            "ListObjectsV2": self._list,
            "DeleteObjects": self._delete_all,
        }

    def delay(self, operation: str) -> float:
        """How long a reply takes, in seconds."""
        if operation == "Control":
            return 0
        return self.knobs.delete_time if operation == "DeleteObjects" else self.knobs.service_time

    def answer(
        self, request: Request, body: bytes | bytearray, trailers: dict[str, str]
    ) -> list[bytes | bytearray]:
        """Answer a request: the parts of the reply, as they are written."""
        operation = request.operation
        if "aws-chunked" in request.headers.get("content-encoding", ""):
            chunks = Chunks()
            if not chunks.feed(bytearray(body)):
                return self._written(request, _error(400, "IncompleteBody"))
            body, trailers = chunks.body, chunks.trailers
        request.headers.update(trailers)
        if operation != "Control":
            self.counts.requests[operation] += 1
            self.counts.by_sdk += "amz-sdk-invocation-id" in request.headers
        answer = self._answers.get(operation)
        reply = _error(501, "NotImplemented") if answer is None else answer(request, body)
        self.counts.refused += reply.status >= 400
        return self._written(request, reply)

    def control(self, _: Request, body: bytes | bytearray) -> Reply:
        """Do what a JSON object says, and reply with the counts as they were before.

        `knobs` sets some of `Knobs`; `reset` counts from 0 again; `clear` removes all objects;
        `fill` (`prefix`, `count`) makes that many snapshots in history under a prefix;
        `fill_sessions` (`prefix`, `count`) makes that many sessions of three objects; `weigh` sums
        up the bytes of all objects; `keep` remembers all objects, and `restore` brings them back.
        """
        wanted = json.loads(body)
        if wanted.get("weigh"):
            self.counts.stored = sum(len(stored.body) for stored in self.objects.values())
        counts = json.dumps(vars(self.counts)).encode()
        for name, value in wanted.get("knobs", {}).items():
            setattr(self.knobs, name, value)
        if wanted.get("reset"):
            self.counts = Counts()
        if wanted.get("clear"):
            self.objects.clear()
            self.kept.clear()
        if wanted.get("keep"):
            self.kept = self.objects.copy()
        if wanted.get("restore"):
            self.objects = self.kept.copy()
        if "fill" in wanted:
            self._fill(**wanted["fill"])
        if "fill_sessions" in wanted:
            self._fill_sessions(**wanted["fill_sessions"])
        self._sorted = None
        return Reply(200, {"Content-Type": "application/json"}, counts)

    def _fill(self, prefix: str, count: int) -> None:
        stored = self._stored(b"{}", {})
        for number in range(count):
            # A UUIDv7: 48 bits of time, so that the ids are in the order of their numbers.
            time = f"{0x019A_0000_0000 + number:012x}"
            rest = hashlib.blake2b(str(number).encode(), digest_size=8).hexdigest()
            snapshot_id = f"{time[:8]}-{time[8:]}-7{rest[:3]}-8{rest[3:6]}-{rest[4:]}"
            self.objects[f"{prefix}snapshot_{snapshot_id}.json"] = stored

    def _fill_sessions(self, prefix: str, count: int) -> None:
        for number in range(count):
            snapshots = f"{prefix}session-{number:06}/scopes/agent/weather/snapshots/"
            self._fill(f"{snapshots}immutable_history/", 2)
            self.objects[f"{snapshots}snapshot_latest.json"] = self._stored(b"{}", {})

    def _stored(self, body: bytes | bytearray, headers: dict[str, str]) -> Stored:
        crc32 = zlib.crc32(body).to_bytes(4, "big")
        kept = {
            name: value
            for name, value in headers.items()
            if name == "content-type" or name.startswith("x-amz-meta-")
        }
        return Stored(
            body,
            f'"{crc32.hex()}{len(body):08x}{self._number:016x}"',
            formatdate(usegmt=True),
            base64.b64encode(crc32).decode(),
            kept,
        )

    def _put(self, request: Request, body: bytes | bytearray) -> Reply:
        key, headers = request.key, request.headers
        self.counts.body_in += len(body)
        crc32 = headers.get("x-amz-checksum-crc32")
        sha256 = headers.get("x-amz-content-sha256", "")
        signed = SHA256_OF_BODY.fullmatch(sha256)
        self.counts.checksums += crc32 is not None or signed is not None
        current = self.objects.get(key)
        if "*" in headers.get("if-none-match", "") and current is not None:
            return _error(412, "PreconditionFailed")
        if "if-match" in headers:
            if current is None:
                return _error(404, "NoSuchKey")
            if headers["if-match"].strip('"') != current.etag.strip('"'):
                return _error(412, "PreconditionFailed")
        stored = self._stored(body, headers)
        if self.knobs.verify:
            if crc32 not in {None, stored.crc32}:
                return _error(400, "BadDigest")
            if signed and hashlib.sha256(body).hexdigest() != sha256:
                return _error(400, "XAmzContentSHA256Mismatch")
        if current is None:
            self._sorted = None
        self.objects[key] = stored
        sent = {
            "ETag": stored.etag,
            "x-amz-server-side-encryption": "AES256",
            "x-amz-checksum-crc32": stored.crc32,
            "x-amz-checksum-type": "FULL_OBJECT",
        }
        return Reply(200, sent)

    def _get(self, request: Request, _: bytes | bytearray) -> Reply:
        stored = self.objects.get(request.key)
        if stored is None:
            return _error(404, "NoSuchKey")
        self.counts.body_out += len(stored.body) if request.method == "GET" else 0
        headers = {
            "Last-Modified": stored.modified,
            "ETag": stored.etag,
            "x-amz-server-side-encryption": "AES256",
            "Accept-Ranges": "bytes",
            "Content-Type": stored.headers.get("content-type", "binary/octet-stream"),
        }
        headers |= {
            name: value for name, value in stored.headers.items() if name.startswith("x-amz")
        }
        if request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            self.counts.checked_reads += 1
            headers["x-amz-checksum-crc32"] = stored.crc32
            headers["x-amz-checksum-type"] = "FULL_OBJECT"
        return Reply(200, headers, stored.body)

    def _head(self, request: Request, body: bytes | bytearray) -> Reply:
        return self._get(request, body)

    def _delete(self, request: Request, _: bytes | bytearray) -> Reply:
        if "if-match" in request.headers:
            current = self.objects.get(request.key)
            if current is None:
                return _error(404, "NoSuchKey")
            if request.headers["if-match"].strip('"') != current.etag.strip('"'):
                return _error(412, "PreconditionFailed")
        self._remove(request.key)
        return Reply(204, {})

    def _remove(self, key: str) -> None:
        self.counts.deleted += self.objects.pop(key, None) is not None

    def _list(self, request: Request, _: bytes | bytearray) -> Reply:
        """A page. The order is made once and outlives deletes: what is gone is passed over."""
        query = {name: values[0] for name, values in request.query.items()}
        prefix, limit = query.get("prefix", ""), min(int(query.get("max-keys", "1000")), 1000)
        if self._sorted is None:
            self._sorted = sorted(self.objects)
        keys = self._sorted
        token = query.get("continuation-token")
        after = base64.urlsafe_b64decode(token).decode() if token else query.get("start-after", "")
        position = max(bisect_left(keys, prefix), bisect_right(keys, after))
        delimiter, common = query.get("delimiter", ""), ""
        found: list[str] = []
        while position < len(keys) and len(found) <= limit and keys[position].startswith(prefix):
            key = keys[position]
            if key not in self.objects or (common and key.startswith(common)):
                position += 1
                continue
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            common = key[: cut + len(delimiter)] if cut >= 0 else ""
            # The token is the last key of a page: its common prefix was in that page.
            if not (common and token and after.startswith(common)):
                found.append(common or key)
            position = bisect_right(keys, f"{common}\U0010ffff") if common else position + 1
        page, truncated = found[:limit], len(found) > limit
        url = query.get("encoding-type") == "url"
        shown: Callable[[str], str] = quote if url else escape
        parts = [
            XML,
            f"<ListBucketResult {NAMESPACE}><Name>bench</Name><Prefix>{shown(prefix)}</Prefix>",
            f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{limit}</MaxKeys>",
            f"<Delimiter>{shown(delimiter)}</Delimiter>" if delimiter else "",
            "<EncodingType>url</EncodingType>" if url else "",
            f"<IsTruncated>{str(truncated).lower()}</IsTruncated>",
        ]
        if token:
            parts.append(f"<ContinuationToken>{token}</ContinuationToken>")
        elif after:
            parts.append(f"<StartAfter>{shown(after)}</StartAfter>")
        if truncated and page:
            following = base64.urlsafe_b64encode(page[-1].encode()).decode()
            parts.append(f"<NextContinuationToken>{following}</NextContinuationToken>")
        for key in page:
            if delimiter and key.endswith(delimiter):
                parts.append(f"<CommonPrefixes><Prefix>{shown(key)}</Prefix></CommonPrefixes>")
                continue
            stored = self.objects[key]
            etag = stored.etag.replace('"', "&quot;")
            parts.append(
                f"<Contents><Key>{shown(key)}</Key>"
                "<LastModified>2026-01-02T03:04:05.000Z</LastModified>"
                f"<ETag>{etag}</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm>"
                f"<ChecksumType>FULL_OBJECT</ChecksumType><Size>{len(stored.body)}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        parts.append("</ListBucketResult>")
        return Reply(200, {"Content-Type": "application/xml"}, "".join(parts).encode())

    def _delete_all(self, _: Request, body: bytes | bytearray) -> Reply:
        text = body.decode()
        keys = [unescape(key) for key in KEY.findall(text)]
        for key in keys:
            self._remove(key)
        quiet = "<Quiet>true</Quiet>" in text
        named = [] if quiet else [f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys]
        result = f"{XML}<DeleteResult {NAMESPACE}>{''.join(named)}</DeleteResult>"
        return Reply(200, {"Content-Type": "application/xml"}, result.encode())

    def _written(self, request: Request, reply: Reply) -> list[bytes | bytearray]:
        self._number += 1
        lines = [
            f"HTTP/1.1 {reply.status} {REASONS[reply.status]}",
            "x-amz-id-2: Yx7l9Kc2uVhE3pQ8sT1dW6zB4nM0aRjG5fHqLoXvPkCiUeSyDtFwJgZbNm+OrA9I=",
            f"x-amz-request-id: {self._number:016X}",
            f"Date: {formatdate(usegmt=True)}",
            *(f"{name}: {value}" for name, value in reply.headers.items()),
            "Server: AmazonS3",
        ]
        if reply.status != 204:
            lines.append(f"Content-Length: {len(reply.body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        without_body = request.method == "HEAD" or not reply.body
        return [head] if without_body else [head, reply.body]


def _error(status: int, code: str) -> Reply:
    body = (
        f"{XML}<Error><Code>{code}</Code><Message>{code}</Message>"
        "<RequestId>0000000000000000</RequestId><HostId>stub</HostId></Error>"
    )
    return Reply(status, {"Content-Type": "application/xml"}, body.encode())


class Connection(asyncio.BufferedProtocol):
    """One connection: a request after the other."""

    _transport: asyncio.Transport

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._scratch = memoryview(bytearray(SCRATCH))
        self._pending = bytearray()
        self._request: Request | None = None
        self._body = bytearray()
        self._filled = 0
        self._chunks: Chunks | None = None
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol.connection_made`."""
        self._transport = cast("asyncio.Transport", transport)
        self._stub.counts.connections += 1

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- the protocol's signature
        """Where to receive: a body of known length goes where it stays."""
        if self._filled < len(self._body) and not self._busy:
            return memoryview(self._body)[self._filled :]
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received where `get_buffer` said."""
        if self._filled < len(self._body) and not self._busy:
            self._filled += nbytes
        else:
            self._pending += self._scratch[:nbytes]
        self._advance()

    def _advance(self) -> None:
        """Go on as far as what has been received allows."""
        if self._busy:
            return
        if self._request is None and not self._read_head():
            return
        if self._chunks is not None:
            if self._chunks.feed(self._pending):
                self._complete(self._chunks.body, self._chunks.trailers)
        elif self._filled == len(self._body):
            self._complete(self._body, {})

    def _read_head(self) -> bool:
        end = self._pending.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = self._pending[:end].decode("latin-1").split("\r\n")
        del self._pending[: end + 4]
        method, target, _ = first.split(" ", 2)
        path, _, query = target.partition("?")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        fields = parse_qs(query, keep_blank_values=True) if query else {}
        self._request = Request(method, path, fields, headers)
        if "chunked" in headers.get("transfer-encoding", ""):
            self._chunks = Chunks()
        else:
            self._body = bytearray(int(headers.get("content-length", "0")))
            self._filled = min(len(self._pending), len(self._body))
            self._body[: self._filled] = self._pending[: self._filled]
            del self._pending[: self._filled]
        if headers.get("expect", "").lower() == "100-continue":
            self._stub.counts.continues += 1
            self._after(self._stub.knobs.continue_time, [b"HTTP/1.1 100 Continue\r\n\r\n"])
        return True

    def _complete(self, body: bytearray, trailers: dict[str, str]) -> None:
        request = cast("Request", self._request)
        self._busy = True
        delay = self._stub.delay(request.operation)
        if delay:
            asyncio.get_running_loop().call_later(delay, self._reply, request, body, trailers)
        else:
            self._reply(request, body, trailers)

    def _reply(self, request: Request, body: bytearray, trailers: dict[str, str]) -> None:
        self._after(0, self._stub.answer(request, body, trailers))
        # A new body, since the store keeps the old one.
        self._request, self._chunks, self._body, self._filled = None, None, bytearray(), 0
        self._busy = False
        if self._pending:
            self._advance()

    def _after(self, delay: float, parts: list[bytes | bytearray]) -> None:
        if self._transport.is_closing():
            return
        if delay:
            asyncio.get_running_loop().call_later(delay, self._after, 0, parts)
        else:
            self._transport.writelines(parts)


async def main(certificate: str, private_key: str) -> None:
    """Serve on two free ports of this machine until the standard input ends."""
    loop = asyncio.get_running_loop()
    stub = Stub()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, private_key)

    def connection() -> Connection:
        return Connection(stub)

    plain = await loop.create_server(connection, "127.0.0.1", 0, backlog=1024)
    tls = await loop.create_server(connection, "127.0.0.1", 0, backlog=1024, ssl=context)
    ports = {"http": plain.sockets[0].getsockname()[1], "https": tls.sockets[0].getsockname()[1]}
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop: Any = importlib.import_module("uvloop")
    uvloop.run(main(*sys.argv[1:]))
