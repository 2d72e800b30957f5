"""The options of everything that stores in S3, and what they may be."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict
from urllib.parse import urlsplit

from snapstore.errors import shown

if TYPE_CHECKING:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import AioSession

__all__ = [
    "DEFAULT_MAX_CONCURRENCY",
    "S3Client",
    "S3Options",
    "S3OwnClientOptions",
    "endpoint_problem",
    "validate_bucket",
    "validate_names",
    "validate_options",
]

DEFAULT_MAX_CONCURRENCY: Final = 128


class S3Client(Protocol):
    """An entered S3 client of aiobotocore: `async with session.create_client("s3") as client`."""

    @property
    def meta(self) -> Any:
        """Its configuration and its events."""
        ...

    async def close(self) -> Any:
        """Close its connections."""
        ...


class S3OwnClientOptions(TypedDict, total=False):
    """Options of a store that makes its own client. All may be left out."""

    region: str | None
    """The bucket's region. By default (`None`) botocore finds it (`AWS_DEFAULT_REGION`, the
    profile)."""

    endpoint_url: str | None
    """The URL of the server, for an S3 that is not Amazon's. By default (`None`) botocore finds it
    (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, the profile)."""

    session: AioSession | None
    """The aiobotocore session that gives credentials and configuration. By default (`None`) a new
    one is made."""

    config: AioConfig | None
    """Configuration of the client. It overrides snapstore's defaults (`standard` retries, a pool of
    `max_concurrency` connections, no redirects), except that the pool is raised to
    `max_concurrency`. Default `None`."""

    max_concurrency: int
    """The most requests in flight, at least 1. Of a client that is passed in, no more are used than
    its pool has connections. Default 128."""

    server_side_encryption: str | None
    """The encryption that each write asks for. By default (`None`) the bucket's own applies.

    It is `"AES256"`, `"aws:kms"` or `"aws:kms:dsse"`."""

    kms_key_id: str | None
    """The KMS key for each write; needs a `server_side_encryption` by KMS. By default (`None`) the
    bucket's key is used."""

    expected_bucket_owner: str | None
    """The account id that must own the bucket; the server checks it with each request. By default
    (`None`) it does not."""

    direct: bool
    """Whether the fast path may be used, which replays requests on the client's HTTP session, for a
    fraction of the client's CPU. If that is not possible the client makes them, and `check` reports
    why. Default `True`."""


class S3Options(S3OwnClientOptions, total=False):
    """Options of `snapstore.S3Storage` and `S3ObjectStore`. All may be left out.

    Example:
        ::

            options: S3Options = {"region": "eu-central-1", "max_concurrency": 32}
            storage = S3Storage("my-bucket", **options)
    """

    client: S3Client | None
    """An entered aiobotocore S3 client to use instead of an own one. The store never closes it.
    Excludes `region`, `endpoint_url`, `session` and `config`. Default `None`."""


def validate_names(names: Iterable[str], allowed: Collection[str]) -> None:
    """Check the names of options. Python does not, for a `TypedDict` of keyword arguments.

    Raises:
        TypeError: One is not allowed.
    """
    for name in names:
        if name not in allowed:
            raise TypeError(
                f"unexpected keyword argument {name!r}; the options of S3 are "
                f"{', '.join(sorted(allowed))}"
            )


def validate_options(options: S3Options, bucket: str) -> None:
    """Check the options of a store.

    Raises:
        TypeError: There is no such option, or `client` is not an entered aiobotocore client, or it
            comes with options for making one.
        ValueError: An option is out of its range.
    """
    validate_names(options, S3Options.__optional_keys__)
    if options.get("max_concurrency", DEFAULT_MAX_CONCURRENCY) < 1:
        raise ValueError("max_concurrency must be at least 1")
    endpoint_url = options.get("endpoint_url")
    if endpoint_url is not None and (problem := endpoint_problem(endpoint_url, bucket)):
        raise ValueError(problem)
    encryption = options.get("server_side_encryption") or ""
    if options.get("kms_key_id") is not None and not encryption.startswith("aws:kms"):
        raise ValueError("kms_key_id needs server_side_encryption='aws:kms' or 'aws:kms:dsse'")
    client = options.get("client")
    if client is None:
        return
    _validate_client(client)
    for name in ("region", "endpoint_url", "session", "config"):
        if options.get(name) is not None:
            raise TypeError(
                f"client and {name} exclude each other: {name} is for a client of our own"
            )
    if problem := endpoint_problem(client.meta.endpoint_url, bucket):
        raise ValueError(f"the client can't be used: {problem}")


def validate_bucket(bucket: str) -> None:
    """Check that a bucket is given by its name alone.

    Raises:
        ValueError: It is not.
    """
    if not bucket or not bucket.isprintable():
        raise ValueError("bucket must be the name of a bucket")
    # An access point is named by an ARN that has slashes in it.
    if bucket.startswith(("s3:", "arn:aws:s3:::")) or ("/" in bucket and bucket[:4] != "arn:"):
        raise ValueError(
            f"bucket must be the name alone, not {shown(bucket)!r}; "
            "what keys begin with is prefix=…"
        )


def endpoint_problem(endpoint_url: str, bucket: str) -> str | None:
    """Find out what is wrong with the URL of a server.

    Args:
        endpoint_url: The URL.
        bucket: The bucket, which must not be part of it.

    Returns:
        The problem, without the URL; `None` if there is none.
    """
    url = urlsplit(endpoint_url)
    if url.scheme not in ("http", "https"):
        return "endpoint_url must begin with http:// or https://"
    if not url.hostname:
        return "endpoint_url must have a host, as in https://s3.example.com"
    if url.username is not None or url.password is not None:
        return "endpoint_url must not hold a password; credentials come from AWS_*"
    if url.path.strip("/").rpartition("/")[2] == bucket:
        return "endpoint_url must not end with the bucket, which is added to it"
    # Elsewhere a host may well be called like a bucket: minio.example.com.
    is_amazon = url.hostname.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    if is_amazon and url.hostname.startswith((f"{bucket}.s3.", f"{bucket}.s3-")):
        return "endpoint_url must not begin with the bucket, which is added to it"
    return None


def _validate_client(client: Any) -> None:
    """Check that a client is one of aiobotocore, and entered.

    Raises:
        TypeError: It is not.
    """
    if not hasattr(client, "put_object"):
        hint = "enter it first: async with session.create_client('s3') as client: …"
        entered = "" if not hasattr(client, "__aenter__") else f"; {hint}"
        raise TypeError(
            f"client must be an entered aiobotocore S3 client, not a {type(client).__name__}"
            + entered
        )
    call = getattr(client, "_make_api_call", None)
    if call is not None and not inspect.iscoroutinefunction(call):
        raise TypeError("client must be a client of aiobotocore: one of boto3 or botocore blocks")
