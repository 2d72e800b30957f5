"""Retention policies keep what restic's do, judged from the newest snapshot to the oldest."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from snapstore import snapshot_id_at, snapshot_time
from snapstore.model.ids import id_from_number, number_from_id
from snapstore.operations import RetentionPolicy
from snapstore.operations.pruning.retention import Retention

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
PERIODS = {
    "keep_hourly": "%Y-%m-%d %H",
    "keep_daily": "%Y-%m-%d",
    "keep_weekly": "%G-%V",
    "keep_monthly": "%Y-%m",
}


def naive(ids, policy, now=NOW):
    """The kept ids, spelled out from restic's manual rather than from what is tested."""
    ids = sorted(ids)
    kept = set(ids[-policy.keep_last :] if policy.keep_last else [])
    if policy.keep_within is not None:
        past = [time for time in map(snapshot_time, ids) if time <= now]
        edge = max(past) - policy.keep_within if past else datetime.min.replace(tzinfo=UTC)
        kept |= {found for found in ids if snapshot_time(found) > edge}
    for name, form in PERIODS.items():
        count = getattr(policy, name)
        last_of = {snapshot_time(found).strftime(form): found for found in ids}
        if count:
            kept |= set(sorted(last_of.values())[-count:])
            if len(last_of) < count:
                kept |= set(ids[:1])
    return kept


def judged(ids, policy, now=NOW):
    retention = Retention(policy, now)
    backwards = sorted(ids, reverse=True)
    return {
        found for found in backwards if retention.keeps(found, is_oldest=found == backwards[-1])
    }


counts = st.integers(0, 6)
policies = st.builds(
    dict,
    keep_last=counts,
    keep_within=st.none() | st.timedeltas(timedelta(seconds=1), timedelta(days=90)),
    keep_hourly=counts,
    keep_daily=counts,
    keep_weekly=counts,
    keep_monthly=counts,
).filter(lambda rules: any(rules.values()))


@examples(300)
@given(policies, st.integers(0, 40), st.randoms(use_true_random=False))
def test_any_policy_keeps_what_a_naive_model_keeps(rules, count, rng):
    policy = RetentionPolicy(**rules)
    scale = rng.choice([60, 3_600, 86_400, 86_400 * 30])
    ids = set()
    for _ in range(count):
        time = NOW - timedelta(seconds=rng.randint(-3, 30) * scale * rng.random())
        ids.add(id_from_number(number_from_id(snapshot_id_at(time)) + rng.getrandbits(40)))
    kept = judged(ids, policy)
    assert kept == naive(ids, policy)
    # Cut off anywhere and made again, it keeps the same.
    left = {found for found in ids if found in kept or rng.random() < 0.5}
    assert judged(left, policy) == kept


def test_the_oldest_is_kept_while_a_rule_may_keep_more():
    ids = [snapshot_id_at(NOW - timedelta(hours=hours)) for hours in (1, 2, 3)]
    assert judged(ids, RetentionPolicy(keep_daily=2)) == {ids[0], ids[2]}
    assert judged(ids, RetentionPolicy(keep_daily=1)) == {ids[0]}


def test_a_snapshot_in_the_future_is_not_the_newest():
    future, newest, old = (snapshot_id_at(NOW + timedelta(days=days)) for days in (300, 0, -30))
    within = RetentionPolicy(keep_within=timedelta(days=1))
    assert judged([future, newest, old], within) == {future, newest}
    assert judged([future], within) == {future}


def test_all_may_be_within_the_longest_time_there_is():
    ids = [snapshot_id_at(NOW - timedelta(days=days)) for days in (0, 9_000)]
    assert judged(ids, RetentionPolicy(keep_within=timedelta.max)) == set(ids)


def test_an_id_later_than_any_date_is_kept():
    latest = "ffffffff-ffff-7fff-bfff-ffffffffffff"
    ids = [latest, *(snapshot_id_at(NOW - timedelta(days=days)) for days in range(5))]
    assert judged(ids, RetentionPolicy(keep_last=2)) == set(ids[:3])


@pytest.mark.parametrize(
    ("rules", "error", "words"),
    [
        ({}, ValueError, "keeps nothing"),
        ({"keep_last": 0, "keep_daily": 0}, ValueError, "keeps nothing"),
        ({"keep_last": -1}, ValueError, "keep_last must not be negative"),
        ({"keep_daily": 1.0}, TypeError, "keep_daily must be an int"),
        ({"keep_weekly": True}, TypeError, "keep_weekly must be an int"),
        ({"keep_within": timedelta(0)}, ValueError, "keep_within must be positive"),
        ({"keep_within": timedelta(days=-1)}, ValueError, "keep_within must be positive"),
        ({"keep_within": 7}, TypeError, "keep_within must be a timedelta"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(rules, error, words):
    with pytest.raises(error, match=words):
        RetentionPolicy(**rules)


def test_periods_are_those_of_utc():
    rng = random.Random(1)
    days = [datetime(2024, 12, 28, 23, 59, tzinfo=UTC) + timedelta(hours=7 * n) for n in range(40)]
    rng.shuffle(days)
    ids = [snapshot_id_at(day) for day in days]
    for name in PERIODS:
        policy = RetentionPolicy(**{name: 5})
        assert judged(ids, policy) == naive(ids, policy)
