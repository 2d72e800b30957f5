"""Commands whose operations can be planned: plan, ask, and do what was planned."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import IO, Any, Final, NamedTuple, Self, TypeVar

import click

from snapstore import ObjectSnapshotStorage
from snapstore.cli.arguments import DURATION
from snapstore.cli.printing import write_json, write_row
from snapstore.cli.running import (
    confirm,
    follow,
    opened,
    require_consent,
    require_sessions,
    usage_errors,
)
from snapstore.operations import (
    ApplyReport,
    CopyEvent,
    DeleteEvent,
    Event,
    Operation,
    PackEvent,
    RetentionPolicy,
    SessionEvent,
    UnarchiveEvent,
    apply,
    decode_events,
    encode_event,
)

__all__ = [
    "ChangeOptions",
    "apply_file",
    "change",
    "policy_from",
    "policy_if_any",
    "policy_options",
    "validated",
]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
_RULES: Final = ("last", "hourly", "daily", "weekly", "monthly")


def policy_options(command: CommandT) -> CommandT:
    """Add the options that say which snapshots are kept."""
    command = click.option(
        "--keep-within", type=DURATION, help="All that are less than this older, as 90d."
    )(command)
    for rule in reversed(_RULES):
        what = "The newest N." if rule == "last" else f"The last one of each of N {_PERIODS[rule]}."
        command = click.option(
            f"--keep-{rule}", type=click.IntRange(0), metavar="N", default=0, help=what
        )(command)
    return command


_PERIODS: Final = {"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months"}


def policy_from(options: dict[str, Any]) -> RetentionPolicy:
    """Take the policy out of the options of a command.

    Raises:
        click.UsageError: It keeps nothing.
    """
    rules = {f"keep_{rule}": options.pop(f"keep_{rule}") for rule in (*_RULES, "within")}
    with usage_errors():
        return RetentionPolicy(**rules)


def policy_if_any(options: dict[str, Any]) -> RetentionPolicy | None:
    """Take the policy out of the options of a command; `None` if no rule was given."""
    if any(options[f"keep_{rule}"] for rule in (*_RULES, "within")):
        return policy_from(options)
    for rule in (*_RULES, "within"):
        del options[f"keep_{rule}"]
    return None


class ChangeOptions(NamedTuple):
    """The options that commands have whose operations can be planned.

    Attributes:
        sessions: The sessions that were named; empty for all.
        dry_run: Only plan it, and write the events.
        yes: Don't ask.
        as_json: Whether events are written as lines of JSON.
        pace: Requests in a second; `None` for no limit.
    """

    sessions: tuple[str, ...]
    dry_run: bool
    yes: bool
    as_json: bool
    pace: float | None

    @classmethod
    def take(cls, options: dict[str, Any]) -> Self:
        """Take them out of the options of a command.

        Raises:
            click.UsageError: It changes something, and nobody can be asked.
        """
        taken = cls(**{name: options.pop(name) for name in cls._fields})
        require_consent(yes=taken.yes, dry_run=taken.dry_run)
        return taken


def change(
    storage: ObjectSnapshotStorage,
    plan: Callable[..., Operation[Event, Any]],
    told: Callable[[Any], str],
    options: ChangeOptions,
    *,
    doing: str = "deleting",
    unconditional: bool = False,
) -> None:
    """Do it; or, where it must be asked for, plan it, ask, and do what was planned.

    Args:
        storage: Where, not open.
        plan: Makes the operation of a storage, `sessions`, `dry_run` and
            `max_requests_per_second`.
        told: Says in words what its report tells.
        options: What the user has chosen. Sessions that were named must be there.
        doing: What it does, in a word.
        unconditional: As in `prune_sessions`.

    Raises:
        click.exceptions.Exit: Not all was done.
    """
    write = _writer(options.as_json)
    operate = partial(
        plan, storage, sessions=options.sessions or None, max_requests_per_second=options.pace
    )
    with opened(storage) as run:
        require_sessions(run, storage, options.sessions)
        if options.yes and not options.dry_run:
            operation = operate(dry_run=False)
            report = run(follow(operation, doing, count=told, on_event=write))
            if not report.ok:
                raise click.exceptions.Exit(1)
            return
        with tempfile.TemporaryFile() as file:

            def keep(event: Event) -> None:
                file.write(encode_event(event))
                if options.dry_run:
                    write(event)

            run(follow(operate(dry_run=True), "looking", count=told, on_event=keep))
            if options.dry_run:
                return
            confirm("Do it?", yes=False)
            file.seek(0)
            applying = _Applying(
                storage, file, unconditional, options.pace, as_json=options.as_json
            )
            applied = run(applying.run(doing))
    # As with --yes, a session that is in use again is no failure.
    if applied.failed or applied.changed > applying.woken:
        raise click.exceptions.Exit(1)


async def apply_file(
    storage: ObjectSnapshotStorage,
    file: IO[bytes],
    unconditional: bool,
    pace: float | None,
    *,
    as_json: bool,
) -> ApplyReport:
    """Do what the lines of a file say, and write what was done."""
    return await _Applying(storage, file, unconditional, pace, as_json=as_json).run("applying")


def validated(event: Event, storage: ObjectSnapshotStorage) -> Event:
    """An event of a dry run at a place.

    Raises:
        ValueError: It is something else.
    """
    layout = storage.layout
    if isinstance(event, CopyEvent):
        raise ValueError("an event is of a copy: copy --plan does what it says")  # noqa: TRY004 -- the events are wrong
    if event.result != "planned":
        raise ValueError(f"an event is not of a dry run: its result is {event.result!r}")
    if isinstance(event, SessionEvent):
        layout.session_prefix(event.session_id)  # it is validated here
        return event
    place = layout.place_in_any(event.key)
    if place is None or (isinstance(event, DeleteEvent) and place.snapshot_id is None):
        raise ValueError(f"an event is not of this place: {event.key}")
    return event


class _Applying:
    """Does what events of a dry run say.

    Attributes:
        woken: Sessions that were kept, since they were updated after the dry run.
    """

    def __init__(
        self,
        storage: ObjectSnapshotStorage,
        file: IO[bytes],
        unconditional: bool,
        pace: float | None,
        *,
        as_json: bool,
    ) -> None:
        self.woken = 0
        self._write = _writer(as_json)
        self._operation = apply(
            storage,
            decode_events(file),
            unconditional=unconditional,
            max_requests_per_second=pace,
        )

    async def run(self, doing: str) -> ApplyReport:
        return await follow(
            self._operation, doing, count=self._told, on_event=self._count_and_write
        )

    def _count_and_write(self, event: Event) -> None:
        is_woken = isinstance(event, SessionEvent) and event.result in ("kept", "partly", "changed")
        self.woken += is_woken
        self._write(event)

    def _told(self, report: ApplyReport) -> str:
        text = (
            f"{report.done:,} done, {report.changed - self.woken:,} changed and left alone, "
            f"{report.missing:,} gone before, {report.failed:,} failed"
        )
        return f"{text}, {self.woken:,} kept since they woke up" if self.woken else text


def _writer(as_json: bool) -> Callable[[Event], None]:
    def write(event: Event) -> None:
        if as_json:
            write_json(event)
        elif isinstance(event, SessionEvent):
            write_row(event.result, event.session_id, event.code or "")
        elif isinstance(event, (UnarchiveEvent, PackEvent)):
            write_row(event.result, event.key)
        else:
            write_row(event.result, event.key, event.code or "")

    return write
