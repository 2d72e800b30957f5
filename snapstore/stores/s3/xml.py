"""The XML of listings, deletes and errors.

Documents of the usual shape are read by regular expressions, at a fraction of the cost; all
others are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, unescape

from snapstore.errors import InvalidResponseError
from snapstore.stores.base import UNCONFIRMED
from snapstore.stores.capabilities import ObjectDetails
from snapstore.stores.s3.requests import DELETED, Page, details_of, keys_of

__all__ = [
    "delete_body",
    "is_error",
    "parse_deleted",
    "parse_details",
    "parse_page",
    "read_deleted",
    "read_details",
    "read_error",
    "read_page",
]

T = TypeVar("T")

_DECLARATION: Final = r"\s*(?:<\?xml[^>]*>\s*)?"
_PAGE = re.compile(rf"{_DECLARATION}<ListBucketResult[\s>].*</ListBucketResult>\s*", re.DOTALL)
_RESULT = re.compile(rf"{_DECLARATION}<DeleteResult[\s>].*</DeleteResult>\s*", re.DOTALL)
# It ends where another one begins: however many are never closed, each is scanned once.
_OUTCOME = re.compile(r"<(Deleted|Error)>((?:[^<]|<(?!/?(?:Deleted|Error)>))*+)</\1>")
_KEY = re.compile(r"<Key>([^<]*)</Key>")
_DETAIL_NAMES: Final = ("Key", "Size", "LastModified", "ETag")
_DETAIL = re.compile(rf"<(?:(Contents)>|({'|'.join(_DETAIL_NAMES)})>([^<]*)</\2>)")
_DETAILS: Final = 5
"""The opening tag of an entry, and four elements in it."""
_CODE = re.compile(r"<Code>([^<&]*)</Code>")
_TRUNCATED = re.compile(r"<IsTruncated>(true|false)</IsTruncated>")
_TOKEN = re.compile(r"<NextContinuationToken>([^<]*)</NextContinuationToken>")
_DELETED_KEY = re.compile(r"<Deleted><Key>([^<&]*)</Key></Deleted>")
_ENTITIES: Final = {"&quot;": '"', "&apos;": "'"}
_OTHER_REFERENCE = re.compile(r"&(?!(?:lt|gt|amp|quot|apos);)")


def read_error(body: bytes) -> dict[str, str] | None:
    """Read the elements of an error, by name.

    Returns:
        The texts; empty if it is no error of S3. `None` if it is no XML.
    """
    root = _parsed(body)
    if root is None:
        return None
    error = root if root.tag == "Error" else root.find("Error")
    return {} if error is None else {found.tag: (found.text or "").strip() for found in error}


def is_error(body: bytes) -> bool:
    """Whether a body that came with a good status is an error, or no XML at all."""
    root = _parsed(body)
    return root is None or root.tag == "Error"


def read_page(body: bytes) -> Page[str, str] | None:
    """Read a page of ListObjectsV2.

    Returns:
        The page; `None` if the document has another shape than such a page has.
    """
    text = _text_of(body)
    if text is None:
        return None
    first, last = text.find("<Contents>"), text.rfind("</Contents>")
    frame = text if first < 0 else text[:first] + text[last:]
    truncated, token = _TRUNCATED.search(frame), _TOKEN.search(frame)
    keys = _KEY.findall(text)
    # An attribute, a comment or CDATA would have to be parsed.
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
    after = unescape(token[1], _ENTITIES) or None if token else None
    return Page(keys, truncated[1] == "true", after)


def read_details(body: bytes) -> Page[ObjectDetails, str] | None:
    """Read a page of ListObjectsV2, as `read_page` does, with what it tells of each object."""
    page = read_page(body)
    if page is None or not page.items:
        return None if page is None else Page([], page.truncated, page.token)
    found = _DETAIL.findall(body.decode())
    # Each entry has the same elements in the same order, or the document has to be parsed.
    names = [opening or name for opening, name, _ in found]
    shape = names[:_DETAILS]
    is_usual = shape[0] == "Contents" and set(shape[1:]) == set(_DETAIL_NAMES)
    if not is_usual or names != shape * len(page.items):
        return None
    texts = [
        [text for _, _, text in found[shape.index(name) :: _DETAILS]] for name in _DETAIL_NAMES
    ]
    details: list[ObjectDetails] = []
    for key, size, modified, etag in zip(page.items, *texts[1:], strict=True):
        bare = etag.replace("&quot;", '"').replace("&#34;", '"')
        if "&" in bare:
            return None
        told = {"Key": key, "Size": size, "LastModified": modified, "ETag": bare}
        try:
            details.append(details_of(told, ""))
        except InvalidResponseError:
            return None  # what is parsed raises it, with its prefix
    return Page(details, page.truncated, page.token)


def parse_page(body: bytes, prefix: str) -> Page[str, str]:
    """Read a page of any shape, as botocore does.

    Args:
        body: A document for which `is_error` is false, or nothing.
        prefix: The prefix of the listing, for errors.
    """
    names = ("Key",)
    return _parse(body, names, lambda entries: keys_of([e.get("Key") for e in entries], prefix))


def parse_details(body: bytes, prefix: str) -> Page[ObjectDetails, str]:
    """Read a page as `parse_page` does, with what it tells of each object."""
    return _parse(
        body, _DETAIL_NAMES, lambda entries: [details_of(entry, prefix) for entry in entries]
    )


def _parse(
    body: bytes,
    names: Sequence[str],
    items_of: Callable[[list[Mapping[str, str]]], list[T]],
) -> Page[T, str]:
    """Read a page.

    Args:
        body: As for `parse_page`.
        names: The elements of an entry that are wanted.
        items_of: Makes the items of the page from the texts of these elements, by name.
    """
    root = _parsed(body)
    if root is None:
        return Page([], None, None)
    told = {_name(child): child.text or "" for child in root}
    entries: list[Mapping[str, str]] = []
    for child in root:
        if _name(child) == "Contents":
            # Reversed, so that of two elements the first one counts.
            entry = {name: e.text or "" for e in reversed(child) if (name := _name(e)) in names}
            if "Key" in entry and told.get("EncodingType") == "url":
                entry["Key"] = unquote_plus(entry["Key"])
            entries.append(entry)
    truncated = {"true": True, "false": False}.get(told.get("IsTruncated", ""))
    return Page(items_of(entries), truncated, told.get("NextContinuationToken") or None)


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


def read_deleted(body: bytes, keys: Sequence[str]) -> dict[str, str] | None:
    """Read the response to DeleteObjects.

    Args:
        body: The response.
        keys: What was to be deleted.

    Returns:
        What became of each key; `None` if the document has another shape, or other keys.
    """
    text = _text_of(body)
    if text is None:
        return None
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
        said = _CODE.search(content)
        code = DELETED if kind == "Deleted" else (said[1] if said else "") or UNCONFIRMED
        outcome[unescape(key[1], _ENTITIES)] = code
    return outcome if outcome.keys() == wanted else None


def parse_deleted(body: bytes, keys: Sequence[str]) -> dict[str, str]:
    """Read a response to DeleteObjects of any shape, as botocore does.

    Args:
        body: A document for which `is_error` is false, or nothing.
        keys: What was to be deleted.

    Returns:
        What became of each key; `UNCONFIRMED` where nothing is said of it.
    """
    outcome = dict.fromkeys(keys, UNCONFIRMED)
    root = _parsed(body)
    for child in () if root is None else root:
        told = {_name(found): found.text or "" for found in child}
        if told.get("Key") in outcome and _name(child) in ("Deleted", "Error"):
            code = DELETED if _name(child) == "Deleted" else told.get("Code") or UNCONFIRMED
            outcome[told["Key"]] = code
    return outcome


def _parsed(body: bytes) -> ET.Element | None:
    try:
        return ET.fromstring(body)  # noqa: S314 -- expat bounds what entities may become
    except ET.ParseError:
        return None


def _name(element: ET.Element) -> str:
    """The name of an element, without its namespace."""
    return element.tag.rpartition("}")[2]


def _text_of(body: bytes) -> str | None:
    with suppress(UnicodeDecodeError):
        return body.decode()
    return None


def _is_plain(text: str) -> bool:
    """Whether it has no comment and no CDATA. One letter is found faster than two."""
    return "!" not in text or "<!" not in text
