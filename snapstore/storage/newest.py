"""The newest ids of a history, from listings that only go forwards.

S3 lists keys in ascending order from any position, and the keys of history sort by time. So a
position is guessed, and bisected where the guess was wrong. A page *reaches* the ids that are known
already, and extends them downwards, or it is *short* of them, and tells how dense ids lie there.
What the pages that count have read is disjoint: no id comes twice, and one that is there all the
while is never missed. An id that is written meanwhile may come or not.

Positions are ids as numbers: 48 bits of time and 74 others (RFC 9562, section 5.7).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from math import isqrt
from typing import Final

from snapstore.model.ids import RANDOM_BITS, id_from_number, number_from_id
from snapstore.stores.base import PAGE_SIZE

__all__ = ["find_newest"]

IdPages = Callable[[str | None], AsyncGenerator[list[str], None]]

_SAMPLE: Final = 250
"""How many ids at the end of a page tell the density."""
_REACH: Final = 900
"""Over how many ids, by the density, a page of 1,000 is trusted to reach."""
_MAX_GUESSES: Final = 23
"""After so many guesses the listing goes on forwards, from where the last short page ended. It may
end with a page that is empty: hence one less than the 24 requests that are promised."""


async def find_newest(pages_after: IdPages, count: int, *, after: int, end: int) -> list[str]:
    """Find the newest ids between two positions.

    Up to 1,000 ids cost one request, and any number at most 24 more than a listing forwards.

    Args:
        pages_after: Lists the ids after an id, or all for `None`, ascending, in pages of 1,000.
        count: How many; 1 to 1,000.
        after: The lower position; its id is left out. -1 for none.
        end: The upper position; its id is left out.

    Returns:
        The ids, oldest first.
    """
    found: list[int] = []
    search = _Search(count, after, end)
    # With a whole page at the start, one more tells whether it was all.
    wanted = PAGE_SIZE + 1
    while True:
        page, reached = await _read(pages_after, search.start, search.known, wanted)
        if reached:
            is_contiguous = search.start == search.low
            found = [*(search.short if is_contiguous else ()), *page, *found]
            if is_contiguous or len(found) >= count:
                return [id_from_number(number) for number in found[-count:]]
            search.extend(page, count - len(found))
        else:
            search.rise(page)
        wanted = PAGE_SIZE


class _Search:
    """Where to read next.

    Args:
        count: How many ids are wanted.
        after: The lower end of the search.
        end: The upper end.

    Attributes:
        start: The position after which to read next.
        low: The last id of `short`, or the lower end: nothing below is needed.
        known: From here on all ids are known.
        short: The last page that was short of `known`: 1,000 ids, as many as are ever wanted.
    """

    def __init__(self, count: int, after: int, end: int) -> None:
        self.start = self.low = after
        self.known = end
        self.short: list[int] = []
        self._first_width = max(4 * count, _SAMPLE)
        self._now = (time.time_ns() // 1_000_000 + 1 << RANDOM_BITS) - 1
        self._gap = 1
        self._held = 0
        self._guesses = 0
        self._is_first = True
        self._tried_millisecond = False
        self._to_middle = True

    def rise(self, page: list[int]) -> None:
        """Go on after a page that was short of what is known."""
        self.short, self.low = page, page[-1]
        sample = page[-_SAMPLE:]
        self._gap = max((sample[-1] - sample[0]) // (len(sample) - 1), 1)
        self._guess(None)

    def extend(self, page: list[int], missing: int) -> None:
        """Go on after a page that reached what is known, where `missing` ids are still wanted."""
        width = self._top() - self.start
        self._held += width
        self.known = self.start + 1
        self._guess(max(width // len(page) * missing, self._held) if page else None)

    def _top(self) -> int:
        """Where ids are expected to end: now, if no later ones are known of."""
        return self._now if self.low < self._now < self.known else self.known - 1

    def _guess(self, width: int | None) -> None:
        """Choose the next position.

        Args:
            width: How far below the known ids the wanted ones may begin; `None` if nothing
                tells.
        """
        top = self._top()
        rest = top - self.low
        if rest <= _REACH * self._gap or self._guesses >= _MAX_GUESSES:
            self.start = self.low
            return
        self._guesses += 1
        millisecond = ((self.low >> RANDOM_BITS) + 1 << RANDOM_BITS) - 1
        dense = self.short[-_SAMPLE] >> RANDOM_BITS == self.low >> RANDOM_BITS
        if dense and not self._tried_millisecond and millisecond < self.known - 2:
            self._tried_millisecond = True
            # All of one millisecond, as an import makes them: perhaps nothing follows it.
            start = millisecond
            self._is_first = True
        elif self._is_first:
            start = top - self._gap * self._first_width
            self._is_first = False
        elif width is not None and width < rest // 2:
            start = top - width
        else:
            self._to_middle = not self._to_middle
            step = rest // 2 if self._to_middle else isqrt(_REACH * self._gap * rest)
            start = self.low + step
        self.start = min(max(start, self.low), self.known - 2)


async def _read(pages_after: IdPages, start: int, end: int, wanted: int) -> tuple[list[int], bool]:
    """Read ids from a position on.

    Args:
        pages_after: As for `find_newest`.
        start: The position; its id is left out.
        end: Where the ids are known.
        wanted: How many are enough.

    Returns:
        The ids before `end`, and whether these are all that lie between.
    """
    ids: list[int] = []
    async with aclosing(pages_after(None if start < 0 else id_from_number(start))) as pages:
        async for page in pages:
            ids += map(number_from_id, page)
            if ids and ids[-1] >= end - 1:
                return [number for number in ids if number < end], True
            if len(ids) >= wanted:
                return ids, False
    return ids, True
