"""How the condition of a write is spelled: `If-None-Match: *`, or an etag in `If-Match`.

Servers differ. Some refuse the quotes that the standard asks for (RFC 9110, section 13.1.1), some
insist on them, and some return one etag with the response to a PUT and another one with a GET.
"""

from __future__ import annotations

from typing import Final

from snapstore.stores.readback import Write

__all__ = ["ETagSpelling", "S3Write"]

_MAX_SPELLINGS: Final = 4
"""Spellings of the condition of one write: two etags, each with and without quotes."""


class S3Write(Write):
    """A write and the spelling of its condition.

    Attributes:
        quoted: Whether the etag is sent in quotes.
        tried: The spellings that were refused although the condition holds.
    """

    quoted: bool = False
    tried: frozenset[tuple[str | None, bool]] = frozenset()

    @property
    def precondition(self) -> tuple[str, str] | None:
        """The header of the condition: its name in lower case, and its value."""
        if self.condition is None:
            return None
        if self.condition == "*":
            return "if-none-match", "*"
        # Without quotes, a comma would begin another etag (RFC 9110, section 13.1.1).
        quoted = self.quoted or "," in self.condition
        return "if-match", f'"{self.condition}"' if quoted else self.condition


class ETagSpelling:
    """Whether a server wants etags in quotes: known from the first one that it accepts.

    Attributes:
        quoted: Whether the next write sends its etag in quotes.
    """

    def __init__(self) -> None:
        self.quoted: bool = False
        self._is_known = False

    def accepted(self, write: S3Write) -> None:
        """Note that the server has accepted a write."""
        if write.condition not in (None, "*"):
            self.quoted, self._is_known = write.quoted, True

    def respell(self, write: S3Write, etag: str) -> bool:
        """Spell the condition of a write in another way, since the server does not take this one.

        Args:
            write: The write.
            etag: The etag of the version to be replaced, as the server returned it last.

        Returns:
            Whether there is a way that was not tried yet.
        """
        if write.condition == "*":
            return False
        write.tried |= {(write.condition, write.quoted)}
        if len(write.tried) >= _MAX_SPELLINGS:
            return False
        for quoted in (write.quoted, not write.quoted):
            is_possible = quoted == self.quoted or not self._is_known
            if is_possible and (etag, quoted) not in write.tried:
                write.condition, write.quoted = etag, quoted
                if not self._is_known:
                    self.quoted = quoted
                return True
        return False
