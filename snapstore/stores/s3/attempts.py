"""What the end of an attempt tells: whether a write may have been applied, and where to send it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from botocore.exceptions import ClientError, ConnectTimeoutError, ProxyConnectionError, SSLError

from snapstore.stores.readback import AttemptOutcome
from snapstore.stores.s3.codes import ELSEWHERE

__all__ = ["is_wrong_region", "outcome_of"]

_TURNED_AWAY: Final = frozenset(
    {"Busy", "RequestLimitExceeded", "ServiceUnavailable", "SlowDown", "Throttling"}
)
"""Codes of a 503 with which a server turns a request away before it does anything."""


def outcome_of(end: Exception | Mapping[str, Any]) -> AttemptOutcome:
    """Tell what the end of an attempt says about the write that it made.

    Args:
        end: What was raised, or the parsed response. A good response counts as none: the caller
            found something wrong with it.
    """
    if isinstance(end, ClientError):
        end = end.response
    if isinstance(end, Exception):
        return AttemptOutcome.REJECTED if _was_never_sent(end) else AttemptOutcome.LOST
    status = end.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
    code = str(end.get("Error", {}).get("Code", ""))
    if 300 <= status < 500 or status == 501 or (status == 503 and code in _TURNED_AWAY):
        return AttemptOutcome.REJECTED
    # Without a code of S3 it is the response of a gateway, which says nothing about the server.
    is_of_server = status in (500, 503) and code and not code.isdigit()
    return AttemptOutcome.AMBIGUOUS if is_of_server else AttemptOutcome.LOST


def is_wrong_region(response: Mapping[str, Any]) -> bool:
    """Whether a parsed response sends the request to another region."""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = response.get("Error", {}).get("Code")
    return status in (301, 302, 307, 308) or code in ELSEWHERE


def _was_never_sent(error: Exception) -> bool:
    """Whether an error is one of those that are known to come before the first byte is sent.

    They are few on purpose: after any other error the request may have been applied.
    """
    cause = getattr(error, "kwargs", {}).get("error", error)
    if isinstance(error, ConnectTimeoutError | ProxyConnectionError | SSLError):
        return True
    if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return True
    if isinstance(cause, FileNotFoundError | IsADirectoryError | socket.gaierror):
        return True
    if isinstance(cause, ssl.SSLError):
        return cause.library == "X509"  # a file of certificates that has none
    if isinstance(cause, AttributeError):
        return cause.obj is None  # the sessions of a client that is closed
    if type(cause) is RuntimeError:
        return str(cause) == "Session is closed"
    return type(cause) is ValueError and "header injection" in str(cause)
