"""What the arguments of all commands have in common: places, locations, times and durations."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar, cast

import click

from snapstore import FileStorage, ObjectSnapshotStorage, S3Storage, Scope, SnapshotLocation

__all__ = [
    "DURATION",
    "IDENTIFIER",
    "LOCATION",
    "PLACE",
    "TIME",
    "Place",
    "S3Settings",
    "change_options",
    "s3_options",
    "session_option",
    "storage_at",
]

T = TypeVar("T")
CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_S3: Final = re.compile(r"s3://([^/]+)(?:/(.*))?", re.DOTALL)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Place(NamedTuple):
    """Where snapshots lie.

    Attributes:
        text: As it was written.
        bucket: The bucket; `None` for a directory.
        path: The prefix in the bucket, or the path of the directory.
    """

    text: str
    bucket: str | None
    path: str


class S3Settings(NamedTuple):
    """Where S3 is, and who asks it; `None` for what the environment or the profile says."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None


def _argument(name: str, read: Callable[[str], T]) -> Callable[[str], T]:
    """The type of an argument: a function whose `ValueError` says what is wrong with it."""

    def convert(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    convert.__name__ = name
    return convert


def _place(text: str) -> Place:
    found = _S3.fullmatch(text)
    if found is not None:
        return Place(text, found[1], (found[2] or "").removesuffix("/"))
    if re.match(r"s3:|[a-z0-9+.-]+://", text, re.IGNORECASE):
        raise ValueError(f"{text!r} is neither s3://bucket/prefix nor a directory")
    if not text:
        raise ValueError("a place is s3://bucket/prefix or a directory")
    return Place(text, None, text)


def _location(text: str) -> tuple[Scope, str]:
    scope, _, scope_id = text.partition("/")
    location = SnapshotLocation("session", cast("Scope", scope), scope_id)  # it is validated here
    return location.scope, location.scope_id


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time as 2026-11-28 or 2026-11-28T04:30:00Z") from None
    time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    if time < datetime(1970, 1, 1, tzinfo=UTC):
        raise ValueError(f"{text!r} is before 1970")
    return time


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text, re.ASCII)
    if found is None or not int(found[1]):
        raise ValueError(f"{text!r} is no duration as 90d, 12h, 30m or 2w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


PLACE: Final = _argument("place", _place)
LOCATION: Final = _argument("location", _location)
TIME: Final = _argument("time", _time)
DURATION: Final = _argument("duration", _duration)
IDENTIFIER: Final = _argument(
    "session", lambda text: SnapshotLocation.agent(text, "agent").session_id
)


def s3_options(command: CommandT) -> CommandT:
    """Add the options that say where S3 is."""
    for name, metavar, what in (
        ("--profile", "NAME", "A profile of ~/.aws."),
        ("--region", "REGION", "The region of the bucket."),
        ("--endpoint-url", "URL", "Where the S3 server is; at AWS it is not needed."),
    ):
        command = click.option(name, metavar=metavar, help=what)(command)
    return command


def change_options(command: CommandT) -> CommandT:
    """Add the options of commands that change something."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Each event as one line of JSON."),
        click.option("--yes", is_flag=True, help="Don't ask."),
        click.option("--dry-run", is_flag=True, help="Change nothing; say what would be done."),
        click.option(
            "--max-requests-per-second",
            "pace",
            type=click.FloatRange(0, min_open=True),
            metavar="NUMBER",
            help="Go slowly, so that saves are not kept waiting.",
        ),
    ):
        command = option(command)
    return command


def session_option(command: CommandT) -> CommandT:
    """Add the option that names sessions."""
    return click.option(
        "--session",
        "sessions",
        type=IDENTIFIER,
        multiple=True,
        help="Only this session; can be given several times.",
    )(command)


def storage_at(
    place: Place, settings: S3Settings, *, must_exist: bool = True
) -> ObjectSnapshotStorage:
    """The storage at a place, not open yet.

    Args:
        place: The place.
        settings: Where S3 is.
        must_exist: Whether a directory that does not exist is an error, and not an empty storage.

    Raises:
        click.UsageError: The place can't be one.
    """
    if place.bucket is None:
        if must_exist and not os.path.isdir(place.path):  # noqa: PTH112 -- nothing runs yet
            raise click.UsageError(f"there is no directory {place.path}")
        return FileStorage(place.path)
    session = None
    if settings.profile is not None:
        from aiobotocore.session import AioSession

        session = AioSession(profile=settings.profile)
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            return S3Storage(
                place.bucket,
                prefix=place.path,
                endpoint_url=settings.endpoint_url,
                region=settings.region,
                session=session,
            )
    except (ValueError, UserWarning) as error:
        raise click.UsageError(str(error)) from None
