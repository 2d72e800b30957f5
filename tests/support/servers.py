"""Object stores in memory that list as different servers do."""

from datetime import UTC, datetime

from snapstore.errors import UnsupportedOperationError
from snapstore.stores import MemoryObjectStore, ObjectDetails

EPOCH = datetime(2026, 11, 1, tzinfo=UTC)


def by_bytes(key):
    return key.encode()


def by_directories(key):
    """As SeaweedFS: `s/` comes before `s-1/`."""
    return key.split("/")


def by_utf16(key):
    return key.encode("utf-16-be")


def files_first(key):
    """As `os.walk`."""
    *directories, name = key.split("/")
    return [*((1, part) for part in directories), (0, name)]


ORDERS = [by_bytes, by_directories, by_utf16, files_first]


class ListingServer(MemoryObjectStore):
    """A server with an order of its own, small pages, and others who write between its replies.

    Attributes:
        modified: When each object was written; the others at `EPOCH`.
        requests: How many listings were asked for.
        between: Called after each reply.
    """

    def __init__(
        self, objects=(), *, order=by_bytes, page_size=1_000, delimiters=("/", "/scopes/")
    ):
        super().__init__()
        self.objects.update(objects)
        self.modified = {}
        self.requests = 0
        self.between = lambda: None
        self._order, self._page_size, self._delimiters = order, page_size, delimiters

    async def scan(self, prefix, *, start_after=None, page_size=1_000):
        async for page, _ in self._list(prefix, "", start_after, page_size):
            yield page

    async def scan_details(self, prefix, *, start_after=None, page_size=1_000):
        async for page, _ in self._list(prefix, "", start_after, page_size):
            yield [
                ObjectDetails(key, len(self.objects[key]), self.modified.get(key, EPOCH), "etag")
                for key in page
                if key in self.objects
            ]

    async def scan_prefixes(self, prefix, *, delimiter, start_after=None, page_size=1_000):
        if delimiter not in self._delimiters:
            self.requests += 1
            raise UnsupportedOperationError("only some delimiters", operation="scan")
        async for _, prefixes in self._list(prefix, delimiter, start_after, page_size):
            yield sorted(prefixes)  # as SeaweedFS, whatever its order from page to page

    async def _list(self, prefix, delimiter, start_after, page_size):
        """Pages as of ListObjectsV2: keys and common prefixes, which together fill a page."""
        size, token, common = min(page_size, self._page_size), start_after, None
        while True:
            self.requests += 1
            keys, prefixes, truncated = [], [], False
            for key in sorted(self.objects, key=self._order):
                before, found, _ = key[len(prefix) :].partition(delimiter or "\0")
                if (
                    not key.startswith(prefix)
                    or (token is not None and self._order(key) <= self._order(token))
                    or (common is not None and key.startswith(common))
                ):
                    continue
                if len(keys) + len(prefixes) == size:
                    truncated = True
                    break
                token, common = key, None
                if found:
                    common = f"{prefix}{before}{found}"
                    prefixes.append(common)
                else:
                    keys.append(key)
            yield keys, prefixes
            self.between()
            if not truncated:
                return


class SixMethods:
    """A store without any capability, in front of another one."""

    def __init__(self, store):
        self._store = store
        self.name = "six methods"
        for method in ("open", "aclose", "get", "put", "scan", "delete"):
            setattr(self, method, getattr(store, method))
