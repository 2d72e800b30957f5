"""An object store that counts how many requests are under way at a time."""

import asyncio

from snapstore.stores import MemoryObjectStore


class CountingStore(MemoryObjectStore):
    """Objects in memory; each read takes a turn of the event loop.

    Attributes:
        most: How many reads were under way at a time, at the most.
    """

    def __init__(self):
        super().__init__()
        self.most = self._reading = 0

    async def get(self, key, *, max_bytes):
        self._reading += 1
        self.most = max(self.most, self._reading)
        await asyncio.sleep(0)
        self._reading -= 1
        return await super().get(key, max_bytes=max_bytes)
