"""The ready change for `redact`: texts and patterns are replaced wherever they occur."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

__all__ = ["Change", "redaction"]

Change = Callable[[Any], Any]
"""Makes the new content from the old one. It gets the envelope of a snapshot, or a manifest, as a
dictionary; other JSON as what it is; any other text as a string, and what is no text as bytes. It
returns the same kind, and what it does not change, as it is. It may be called several times for one
object, and for snapshots in packs in another thread."""


def redaction(
    texts: Iterable[str] = (),
    *,
    patterns: Iterable[str | re.Pattern[str]] = (),
    replacement: str = "[redacted]",
) -> Change:
    """Make a change that replaces texts, everywhere: in strings and in keys, at any depth.

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

    def in_text(text: str) -> str:
        for one in wanted:
            text = text.replace(one, replacement)
        for pattern in compiled:
            text = pattern.sub(lambda _: replacement, text)
        return text

    def in_bytes(data: bytes) -> bytes:
        for one in wanted:
            data = data.replace(one.encode(errors="surrogatepass"), replacement.encode())
        return data

    def change(value: Any) -> Any:
        if isinstance(value, str):
            return in_text(value)
        if isinstance(value, bytes):
            return in_bytes(value)
        if isinstance(value, list):
            return [change(item) for item in value]
        if isinstance(value, dict):
            changed: dict[str, Any] = {}
            for key, item in cast("dict[str, Any]", value).items():
                name = in_text(key)
                number = 2
                while name in changed or (name != key and name in value):
                    name = f"{in_text(key)} ({number})"
                    number += 1
                changed[name] = change(item)
            return changed
        return value

    return change
