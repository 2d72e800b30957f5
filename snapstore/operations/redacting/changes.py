"""The ready change for `redact`: texts and patterns are replaced wherever they occur."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

__all__ = ["Change", "Redaction", "redaction"]

Change = Callable[[Any], Any]
"""Makes the new content from the old one. It gets the envelope of a snapshot, or a manifest, as a
dictionary; other JSON as what it is; any other text as a string, and what is no text as bytes. It
returns the same kind, and what it does not change, as it is. It may be called several times for one
object, and for snapshots in packs in another thread."""


class Redaction:
    """A change that replaces texts, and what matches patterns: see `redaction`.

    Args:
        texts: The texts, longer ones first.
        patterns: The patterns.
        replacement: What takes their place.
    """

    def __init__(
        self, texts: Sequence[str], patterns: Sequence[re.Pattern[str]], replacement: str
    ) -> None:
        self._texts = texts
        self._patterns = patterns
        self._replacement = replacement

    def __repr__(self) -> str:
        return f"Redaction(<{len(self._texts)} texts, {len(self._patterns)} patterns>)"

    def __call__(self, value: Any) -> Any:
        """Make the new content from the old one."""
        if isinstance(value, str):
            return self._in_text(value)
        if isinstance(value, bytes):
            return self._in_bytes(value)
        if isinstance(value, list):
            return [self(item) for item in value]
        if isinstance(value, dict):
            return self._in_dictionary(cast("dict[str, Any]", value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            # As JSON has it: a number becomes the replacement as a whole.
            return value if self._in_text(repr(value)) == repr(value) else self._replacement
        return value

    def remains_in(self, data: bytes) -> bool:
        """Whether bytes have what is to be replaced, as they are."""
        text = data.decode("utf-8", "surrogateescape")
        return self._in_text(text) != text or self._in_bytes(data) != data

    def _in_text(self, text: str) -> str:
        for one in self._texts:
            text = text.replace(one, self._replacement)
        for pattern in self._patterns:
            # An empty match, as of a lookahead, is none.
            text = pattern.sub(lambda found: self._replacement if found[0] else "", text)
        return text

    def _in_bytes(self, data: bytes) -> bytes:
        for one in self._texts:
            data = data.replace(
                one.encode(errors="surrogatepass"), self._replacement.encode(errors="replace")
            )
        return data

    def _in_dictionary(self, value: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for key, item in value.items():
            name = self._in_text(key)
            number = 2
            while name in changed or (name != key and name in value):
                name = f"{self._in_text(key)} ({number})"
                number += 1
            changed[name] = self(item)
        return changed


def redaction(
    texts: Iterable[str] = (),
    *,
    patterns: Iterable[str | re.Pattern[str]] = (),
    replacement: str = "[redacted]",
) -> Redaction:
    """Make a change that replaces texts, everywhere: in strings and in keys, at any depth.

    A number whose digits have one of them becomes the replacement.

    In bytes that are no text, the UTF-8 of the texts is replaced, and patterns are not looked for.
    What a text has been made into is not found: a translation, base64, parts of it.

    Args:
        texts: The texts, exactly as they occur. Longer ones are replaced first.
        patterns: Regular expressions; what matches is replaced.
        replacement: What takes their place.

    Returns:
        A change for `redact`.

    Raises:
        ValueError: There is nothing to replace, a text is empty, a pattern matches an empty text,
            or the replacement has one of the texts or is matched itself.
        TypeError: `texts` is a single text.

    Example:
        ::

            change = redaction(["Jane Doe"], patterns=[r"[0-9]{4}(-[0-9]{4}){3}"])
            report = await redact(storage, session_id="session-1", change=change).run()
    """
    if isinstance(texts, str):
        raise TypeError("texts must be several texts, not one")
    wanted = sorted(set(texts), key=len, reverse=True)
    compiled = [re.compile(pattern) for pattern in patterns]
    if not wanted and not compiled:
        raise ValueError("there is nothing to replace")
    if not all(wanted):
        raise ValueError("a text is empty: it is everywhere")
    if any(pattern.search("") for pattern in compiled):
        raise ValueError("a pattern matches the empty text, which is everywhere")
    if any(text in replacement for text in wanted) or any(
        pattern.search(replacement) for pattern in compiled
    ):
        raise ValueError("the replacement has what is to be replaced")

    return Redaction(wanted, compiled, replacement)
