"""What the options of a store may be, wherever they come from."""

from __future__ import annotations

import inspect
from typing import Any
from urllib.parse import urlsplit

from snapstore.errors import shown

__all__ = ["endpoint_problem", "validate_bucket", "validate_client"]


def validate_bucket(bucket: str) -> None:
    """Check that a bucket is named, and no more than that.

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
    """What is wrong with the URL of a server.

    Args:
        endpoint_url: The URL.
        bucket: The bucket, which must not be part of it.

    Returns:
        The problem in words that don't show the URL; `None` if there is none.
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


def validate_client(client: Any) -> None:
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
