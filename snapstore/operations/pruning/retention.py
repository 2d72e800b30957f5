"""Which snapshots of a history are kept: the rules of restic's `forget`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from snapstore.model.ids import RANDOM_BITS, number_from_id

__all__ = ["Retention", "RetentionPolicy", "validate_policy"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_DATE: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Which snapshots of each location are kept. What any of the rules keeps is kept.

    The rules are those of restic (its manual, "Removing snapshots according to a policy"). Times
    are those in the ids, in UTC. Of each period that has snapshots, the last one is kept. A rule
    that finds fewer periods than it may keep also keeps the oldest snapshot. An id that is later
    than any date is kept.

    Args:
        keep_last: The newest so many.
        keep_within: All that are less than this older than the newest one. Snapshots in the future
            of this clock don't count as the newest, and are kept by this rule.
        keep_hourly: The last one of each of the newest so many hours that have any.
        keep_daily: The same for days.
        keep_weekly: The same for weeks, which begin on Monday.
        keep_monthly: The same for months.

    Raises:
        TypeError: A count is no `int`, or `keep_within` no `timedelta`.
        ValueError: A count is negative, `keep_within` is not positive, or nothing would be kept.

    Example:
        The newest ten, and one a day for a month::

            policy = RetentionPolicy(keep_last=10, keep_daily=30)
    """

    keep_last: int = 0
    keep_within: timedelta | None = None
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name)
            for name in ("keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly")
        }
        for name, count in counts.items():
            if not isinstance(count, int) or isinstance(count, bool):
                raise TypeError(f"{name} must be an int, not a {type(count).__name__}")
            if count < 0:
                raise ValueError(f"{name} must not be negative")
        if self.keep_within is not None:
            if not isinstance(self.keep_within, timedelta):
                kind = type(self.keep_within).__name__
                raise TypeError(f"keep_within must be a timedelta, not a {kind}")
            if self.keep_within <= timedelta():
                raise ValueError("keep_within must be positive")
        elif not any(counts.values()):
            raise ValueError("a policy that keeps nothing is refused: use delete_session")


def validate_policy(policy: object) -> None:
    """Check a policy.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(policy, RetentionPolicy):
        raise TypeError(f"policy must be a RetentionPolicy, not a {type(policy).__name__}")


class _Rule(NamedTuple):
    limit: int
    period_of: Callable[[int, datetime], Any]


class Retention:
    """Judges the snapshots of one location by a policy, from the newest to the oldest.

    Args:
        policy: The policy.
        now: The time; ids after it are in the future.
    """

    def __init__(self, policy: RetentionPolicy, now: datetime) -> None:
        self._within = policy.keep_within
        self._now = now
        self._newest: datetime | None = None
        self._judged = 0
        self._rules = [
            _Rule(policy.keep_last, lambda place, _: place),
            _Rule(policy.keep_hourly, lambda _, time: (time.date(), time.hour)),
            _Rule(policy.keep_daily, lambda _, time: time.date()),
            _Rule(policy.keep_weekly, lambda _, time: time.isocalendar()[:2]),
            _Rule(policy.keep_monthly, lambda _, time: (time.year, time.month)),
        ]
        self._left = [rule.limit for rule in self._rules]
        self._periods: list[Any] = [None] * len(self._rules)

    def keeps(self, snapshot_id: str, *, is_oldest: bool) -> bool:
        """Whether a snapshot is kept.

        Args:
            snapshot_id: Its id; lower than any that was asked about before.
            is_oldest: Whether no other is lower.
        """
        milliseconds = number_from_id(snapshot_id) >> RANDOM_BITS
        if milliseconds > _LAST_DATE:
            return True
        time = _EPOCH + timedelta(milliseconds=milliseconds)
        if self._newest is None and time <= self._now:
            self._newest = time
        keeps = self._within is not None and (
            self._newest is None or self._newest - time < self._within
        )
        self._judged += 1
        for index, rule in enumerate(self._rules):
            if not self._left[index]:
                continue
            period = rule.period_of(self._judged, time)
            if is_oldest or period != self._periods[index]:
                keeps = True
                self._periods[index] = period
                self._left[index] -= 1
        return keeps
