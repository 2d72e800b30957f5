"""What JavaScript reads of any JSON that snapstore writes, and writes again, is still the same."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from snapstore import Snapshot, SnapshotLocation, new_snapshot_id

OURS = SnapshotLocation.agent("session-1", "ours")
THEIRS = SnapshotLocation.agent("session-1", "theirs")
CREATED_AT = "2026-11-22T11:13:20.403Z"


def joined(text):
    """Pairs of surrogates are characters, and what is left are halves, as in JavaScript."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


texts = st.text(st.characters(exclude_categories=()), max_size=20).map(joined)
names = texts | st.sampled_from(["__proto__", "constructor", "toJSON", "length", "10", "9", ""])
numbers = (
    st.integers()
    | st.integers(2**53 - 2, 2**53 + 2)
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(names, values, max_size=4)


def generated(strategy, number):
    """Examples of a strategy, always the same ones."""
    examples = []

    @given(strategy)
    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
    )
    def generate(example):
        examples.append(example)

    generate()
    return examples


def in_javascript(value):
    """A text for a value, which is the same where JavaScript sees no difference.

    Numbers are all doubles there, so integers over 2^53 are rounded, and fields have no order.
    A whole double over 2^53 is written there in its shortest digits and zeros: as an integer, and
    mostly another one.
    """
    if isinstance(value, dict):
        return f"{{{sorted((name, in_javascript(inner)) for name, inner in value.items())}}}"
    if isinstance(value, list):
        return f"{[in_javascript(inner) for inner in value]}"
    if type(value) in (int, float):
        return repr(float(value) + 0.0)  # JSON.stringify writes -0 as 0
    return repr(value)


def has_large_numbers(value):
    if isinstance(value, dict | list):
        return any(map(has_large_numbers, value.values() if isinstance(value, dict) else value))
    return type(value) in (int, float) and abs(value) > 2**53


@pytest.mark.parametrize("sides", ["FileStorage"], indirect=True)
async def test_json_survives_javascript_but_for_large_integers(sides):
    batch = {new_snapshot_id(): document for document in generated(documents, 300)}
    for snapshot_id, document in batch.items():
        snapshot = Snapshot("agent", "1.0", CREATED_AT, document, {"again": document})
        await sides.ours.save_snapshot(
            location=OURS, snapshot=snapshot, is_latest=False, snapshot_id=snapshot_id
        )

    sides.theirs.copy_history(OURS, THEIRS)

    assert await sides.ours.list_snapshot_ids(location=THEIRS) == [*batch]
    exact = 0
    for snapshot_id, document in batch.items():
        copy = await sides.ours.load_snapshot(location=THEIRS, snapshot_id=snapshot_id)
        assert (copy.scope, copy.schema_version, copy.created_at) == ("agent", "1.0", CREATED_AT)
        assert in_javascript(copy.data) == in_javascript(document)
        assert in_javascript(copy.app_data) == in_javascript({"again": document})
        if not has_large_numbers(document):
            exact += 1
            assert copy.data == document
    assert 100 < exact < len(batch)
