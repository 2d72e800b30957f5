"""The XML of listings and deletes, where it has its usual shape; of any other, nothing is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from snapstore.objects.base import UNCONFIRMED
from snapstore.objects.s3.requests import DELETED, Page

__all__ = ["delete_body", "is_error", "read_deleted", "read_error", "read_page"]

_DECLARATION: Final = r"\s*(?:<\?xml[^>]*>\s*)?"
_PAGE = re.compile(rf"{_DECLARATION}<ListBucketResult[\s>].*</ListBucketResult>\s*", re.DOTALL)
_RESULT = re.compile(rf"{_DECLARATION}<DeleteResult[\s>].*</DeleteResult>\s*", re.DOTALL)
_OUTCOME = re.compile(r"<(Deleted|Error)>(.*?)</\1>", re.DOTALL)
_KEY = re.compile(r"<Key>([^<]*)</Key>")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_TRUNCATED = re.compile(r"<IsTruncated>(true|false)</IsTruncated>")
_TOKEN = re.compile(r"<NextContinuationToken>([^<]*)</NextContinuationToken>")
_DELETED_KEY = re.compile(r"<Deleted><Key>([^<&]*)</Key></Deleted>")
_NOT_FOR_XML = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")


def read_error(text: str) -> dict[str, str] | None:
    """Read what an error says, by the names of its elements.

    Returns:
        The texts; none where it is no error of S3. `None` where it is no XML.
    """
    root = _parsed(text)
    if root is None:
        return None
    error = root if root.tag == "Error" else root.find("Error")
    return {} if error is None else {found.tag: (found.text or "").strip() for found in error}


def is_error(text: str) -> bool:
    """Whether a body that came with a good status is an error, or no XML at all."""
    root = _parsed(text)
    return root is None or root.tag == "Error"


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
    if "&#" in joined:
        return None
    if "&" in joined:
        keys = [unescape(key) for key in keys]
    if "<EncodingType>url</EncodingType>" in frame and ("%" in joined or "+" in joined):
        keys = [unquote_plus(key) for key in keys]
    return Page(keys, truncated[1] == "true", unescape(token[1]) if token else None)


def delete_body(keys: Sequence[str]) -> bytes | None:
    """The body of DeleteObjects; `None` if a key has a character that XML can't carry as it is."""
    joined = "".join(keys)
    if not joined.isprintable() and _NOT_FOR_XML.search(joined):
        return None
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
        if key is None or "&#" in key[1]:
            return None
        found = _CODE.search(content)
        said = unescape(found[1]) if found else ""
        code = DELETED if kind == "Deleted" else said or UNCONFIRMED
        outcome[unescape(key[1])] = code
    return outcome if outcome.keys() == wanted else None


def _parsed(text: str) -> ET.Element | None:
    try:
        return ET.fromstring(text)  # noqa: S314 -- expat bounds what entities may become
    except ET.ParseError:
        return None


def _is_plain(text: str) -> bool:
    """Whether it has no comment and no CDATA. One letter is found faster than two."""
    return "!" not in text or "<!" not in text
