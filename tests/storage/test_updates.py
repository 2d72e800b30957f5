"""`update_latest` over stores that leave a refused write to their caller."""

from snapstore import ObjectSnapshotStorage, Snapshot, SnapshotLocation
from snapstore.stores import MemoryObjectStore, PreconditionFailedError

LOCATION = SnapshotLocation.agent("s-1", "counter")


class SupersededOnce(MemoryObjectStore):
    """The first attempt is in doubt, and reading it back shows another writer's version."""

    def __init__(self):
        super().__init__()
        self.tried = 0

    async def try_put(self, key, data, *, if_match=None, if_none_match=False):
        self.tried += 1
        if self.tried == 1:
            raise PreconditionFailedError("superseded", key=key)
        return await self.put(key, data, if_match=if_match, if_none_match=if_none_match)


async def test_update_that_was_superseded_is_made_again():
    store = SupersededOnce()
    async with ObjectSnapshotStorage(store) as storage:
        await storage.update_latest(location=LOCATION, update=lambda _: Snapshot.new({"n": 1}))
        assert (await storage.load_snapshot(location=LOCATION)).data == {"n": 1}
    assert store.tried == 2
