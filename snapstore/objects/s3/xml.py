"""The XML of listings and deletes, where it has its usual shape; of any other, nothing is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_plus
from xml.sax.saxutils import escape, unescape

from snapstore.objects.base import UNCONFIRMED
from snapstore.objects.s3.requests import DELETED, Page

__all__ = ["delete_body", "error_code", "read_deleted", "read_page"]

_DECLARATION: Final = r"\s*(?:<\?xml[^>]*>\s*)?"
_PAGE = re.compile(rf"{_DECLARATION}<ListBucketResult[\s>].*</ListBucketResult>\s*", re.DOTALL)
_RESULT = re.compile(rf"{_DECLARATION}<DeleteResult[\s>].*</DeleteResult>\s*", re.DOTALL)
# It ends where another one begins, so however many are never closed, each is looked at once.
_OUTCOME = re.compile(r"<(Deleted|Error)>((?:[^<]|<(?!/?(?:Deleted|Error)>))*+)</\1>")
_KEY = re.compile(r"<Key>([^<]*)</Key>")
_CODE = re.compile(r"<Code>([^<&]*)</Code>")
_TRUNCATED = re.compile(r"<IsTruncated>(true|false)</IsTruncated>")
_TOKEN = re.compile(r"<NextContinuationToken>([^<]*)</NextContinuationToken>")
_DELETED_KEY = re.compile(r"<Deleted><Key>([^<&]*)</Key></Deleted>")
_ENTITIES: Final = {"&quot;": '"', "&apos;": "'"}
_OTHER_REFERENCE = re.compile(r"&(?!(?:lt|gt|amp|quot|apos);)")


def error_code(text: str) -> str:
    """The code in an error; `""` if there is none."""
    found = _CODE.search(text)
    return found[1] if found else ""


def read_page(text: str) -> Page | None:
    """Read a page of ListObjectsV2.

    Returns:
        The page; `None` if the text has another shape than such a page has.
    """
    first, last = text.find("<Contents>"), text.rfind("</Contents>")
    frame = text if first < 0 else text[:first] + text[last:]
    truncated, token = _TRUNCATED.search(frame), _TOKEN.search(frame)
    keys = _KEY.findall(text)
    # With an attribute, a comment or CDATA it would have to be parsed.
    is_usual = _is_plain(text) and 2 * len(keys) == text.count("Contents>")
    if truncated is None or not is_usual or not _PAGE.fullmatch(frame):
        return None
    joined = "".join(keys)
    if _OTHER_REFERENCE.search(joined) or (token and _OTHER_REFERENCE.search(token[1])):
        return None
    if "&" in joined:
        keys = [unescape(key, _ENTITIES) for key in keys]
    if "<EncodingType>url</EncodingType>" in frame and ("%" in joined or "+" in joined):
        keys = [unquote_plus(key) for key in keys]
    after = unescape(token[1], _ENTITIES) if token else None
    return Page(keys, truncated[1] == "true", after)


def delete_body(keys: Sequence[str]) -> bytes:
    """The body of DeleteObjects, for keys that XML can carry."""
    joined = "".join(keys)
    if any(special in joined for special in "&<>"):
        keys = [escape(key) for key in keys]
    objects = "</Key></Object><Object><Key>".join(keys)
    return (
        '<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Object><Key>{objects}</Key></Object><Quiet>false</Quiet></Delete>"
    ).encode()


def read_deleted(text: str, keys: Sequence[str]) -> dict[str, str] | None:
    """Read the reply to DeleteObjects.

    Args:
        text: The reply.
        keys: What was to be deleted.

    Returns:
        What became of each key; `None` if the text has another shape, or other keys.
    """
    if not _is_plain(text) or not _RESULT.fullmatch(text):
        return None
    wanted = set(keys)
    # Most often all are deleted, and nothing more is said of them.
    outcome = dict.fromkeys(_DELETED_KEY.findall(text), DELETED)
    if outcome.keys() == wanted and "<Error>" not in text:
        return outcome
    outcome = {}
    for kind, content in _OUTCOME.findall(text):
        key = _KEY.search(content)
        if key is None or _OTHER_REFERENCE.search(key[1]):
            return None
        code = DELETED if kind == "Deleted" else error_code(content) or UNCONFIRMED
        outcome[unescape(key[1], _ENTITIES)] = code
    return outcome if outcome.keys() == wanted else None


def _is_plain(text: str) -> bool:
    """Whether it has no comment and no CDATA. One letter is found faster than two."""
    return "!" not in text or "<!" not in text
