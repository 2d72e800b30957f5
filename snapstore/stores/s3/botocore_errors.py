"""The errors of botocore, as the fast path raises them: the slow path and it fail alike."""

from __future__ import annotations

import socket

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from snapstore.stores.s3 import xml
from snapstore.stores.s3.http import Response

__all__ = ["client_error", "raise_if_error", "transport_error"]


def client_error(
    response: Response, operation: str, body: bytes, status: int | None = None
) -> ClientError:
    """The error that botocore makes of a response.

    Args:
        response: The response.
        operation: The S3 operation.
        body: Its body.
        status: The status to be reported, if it is not the response's own.
    """
    status = status or response.status
    headers = {name.lower(): value for name, value in response.headers.items()}
    details = xml.read_error(body)
    # If the body is no XML, botocore takes the status for the code.
    error = {"Code": str(status)} if details is None else {"Code": "", **details}
    metadata = {
        "HTTPStatusCode": status,
        "HTTPHeaders": headers,
        "RequestId": headers.get("x-amz-request-id"),
    }
    return ClientError({"Error": error, "ResponseMetadata": metadata}, operation)


def raise_if_error(response: Response, operation: str, body: bytes) -> None:
    """Raise if the body of a good response is an error, or no XML.

    As botocore does: in a 200 it counts as a 500, and in any other one it can't be read.

    Raises:
        ClientError: It is an error, or no XML, in a 200.
        ResponseParserError: The same, with another status.
    """
    if body and xml.is_error(body):
        if response.status == 200:
            raise client_error(response, operation, body, status=500)
        raise ResponseParserError(f"{operation}: no XML in a response of {response.status}")


def transport_error(error: Exception, url: str) -> BotoCoreError:
    """The error that aiobotocore makes of what aiohttp raises.

    Args:
        error: What was raised while a request was sent or its response read.
        url: The URL of the request.
    """
    kind: type[BotoCoreError] = HTTPClientError
    if isinstance(error, aiohttp.ClientSSLError):
        kind = SSLError
    elif isinstance(error, aiohttp.ConnectionTimeoutError):
        kind = ConnectTimeoutError
    elif isinstance(error, TimeoutError):
        kind = ReadTimeoutError
    elif isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        kind = ConnectionClosedError
    elif isinstance(error, aiohttp.ClientConnectionError | socket.gaierror):
        kind = EndpointConnectionError
    if kind is HTTPClientError:
        return kind(error=error)
    return kind(endpoint_url=url, error=error)
