"""Segments of keys, made of any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import snapstore
from snapstore.integrations.segments import MAX_SEGMENT_BYTES, to_segment, to_text
from snapstore.stores import FileObjectStore

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("abc-DEF_0.9", "abc-DEF_0.9"),
        ("", "~"),
        (".", "%2E"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("a/b", "a%2Fb"),
        ("100%", "100%25"),
        ("~", "%7E"),
        ("a b\n", "a%20b%0A"),
        ("é", "%C3%A9"),
        ("\ud83d", "%ED%A0%BD"),
        ("node:1|node:2", "node%3A1%7Cnode%3A2"),
    ],
)
def test_a_segment_is_percent_encoded(text, segment):
    assert to_segment(text, "id") == segment
    assert to_text(segment) == text


@given(ANY_TEXT)
def test_a_text_is_read_back_from_its_segment(text):
    segment = to_segment(text, "id", max_bytes=100_000)
    assert to_text(segment) == text
    assert segment.isascii()
    assert "/" not in segment
    assert not segment.startswith(".")


@given(ANY_TEXT, ANY_TEXT, st.integers(41, 60))
def test_different_texts_have_different_segments(one, other, limit):
    segments = {to_segment(text, "id", max_bytes=limit) for text in (one, other)}
    assert len(segments) == len({one, other})
    assert max(map(len, segments)) <= limit


def test_a_long_text_keeps_its_beginning_and_has_a_hash():
    long = "x" * 1000
    segment = to_segment(long, "id")
    assert len(segment) == MAX_SEGMENT_BYTES
    assert segment.startswith("xxx")
    assert segment != to_segment(long + "y", "id")
    assert to_segment(segment, "id") != segment
    assert to_text(segment) is None


@pytest.mark.parametrize("segment", ["a~b", "%2e", "%41", "%FF", "a/b", "", ".a", "%", "~~"])
def test_what_is_no_segment_has_no_text(segment):
    assert to_text(segment) is None


@pytest.mark.parametrize("text", [None, 1, b"a"])
def test_only_a_text_has_a_segment(text):
    with pytest.raises(snapstore.InvalidIdentifierError, match="thread_id must be a str, not a"):
        to_segment(text, "thread_id")


async def test_files_take_each_segment(tmp_path):
    store = FileObjectStore(tmp_path)
    await store.open()
    texts = ["", ".", "..", ".a", "a/b", "\0", "x" * 1000, "\ud83d", "é" * 300]
    for text in texts:
        await store.put(f"{to_segment(text, 'id')}/object", text.encode("utf-8", "replace"))
    found = [key async for page in store.scan("") for key in page]
    assert len(found) == len(texts)
    await store.aclose()
