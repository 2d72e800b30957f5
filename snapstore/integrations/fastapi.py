"""FastAPI: one storage for the life of an app, handed to endpoints, its errors answered over HTTP.

::

    app = FastAPI(lifespan=storage_lifespan, exception_handlers=error_handlers)

    @app.get("/chats/{chat_id}")
    async def resume(chat_id: str, storage: Storage) -> dict[str, Any]:
        location = SnapshotLocation.agent(chat_id, "assistant")
        snapshot = await storage.load_snapshot(location=location)
        if snapshot is None:
            raise HTTPException(404, "no such chat")
        return snapshot.data

Where the bucket is comes from the environment, `SNAPSTORE_BUCKET=my-bucket`; see `StorageSettings`.

The endpoints are `async def`: a storage belongs to the app's event loop. One that is a plain `def`
runs in a thread without a loop; there, `anyio.from_thread.run` calls into the app's.
"""

import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, ClassVar, Final

from snapstore.encoding.documents import encode_json
from snapstore.errors import (
    InvalidIdentifierError,
    OutcomeUnknownError,
    SnapshotConflictError,
    SnapshotNotFoundError,
    StorageClosedError,
    StorageTimeoutError,
    StorageUnavailableError,
)
from snapstore.storage.backends import S3Storage
from snapstore.storage.base import DEFAULT_MAX_SNAPSHOT_BYTES
from snapstore.storage.observation import OperationHook
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.s3.options import DEFAULT_MAX_CONCURRENCY

try:
    from fastapi import Depends, Request
    from fastapi.responses import JSONResponse, Response
    from pydantic import Field
    from pydantic_settings import BaseSettings, SettingsConfigDict
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection
    from starlette.types import Receive, Scope, Send
except ImportError as _error:
    raise ImportError(
        'snapstore.integrations.fastapi needs FastAPI: pip install "snapstore[fastapi]"'
    ) from _error

__all__ = [
    "SnapshotJSONResponse",
    "Storage",
    "StorageSettings",
    "error_handlers",
    "get_storage",
    "storage_lifespan",
]

logger: Final = logging.getLogger("snapstore")


class StorageSettings(BaseSettings):
    """What an `S3Storage` is made with, from the environment: `SNAPSTORE_BUCKET` and so on.

    Fields have the names and the meaning of the arguments of `S3Storage`, and of `S3Options`; only
    `bucket` is required. A variable that is empty counts as unset. Credentials are none of these:
    they resolve as botocore's do, as do region and endpoint where they are not set here.

    Raises:
        pydantic.ValidationError: The bucket is missing, or a value is not of its type.

    Example:
        Another prefix of the variables, a file beside them, and more settings::

            class ChatSettings(StorageSettings):
                model_config = SettingsConfigDict(env_prefix="CHAT_", env_file=".env")

                model: str = "small"

            storage = ChatSettings().storage()
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="SNAPSTORE_",
        env_ignore_empty=True,
        # A file of settings may hold others' as well, and secrets: none is shown in an error.
        extra="ignore",
        hide_input_in_errors=True,
        # Errors begin with it, and name the fields as they are spelled here.
        title="StorageSettings (SNAPSTORE_BUCKET and so on, unless it has another env_prefix)",
    )

    # Required, although type checkers must not miss the argument that the environment gives.
    bucket: str = Field(default=...)
    prefix: str = ""
    region: str | None = None
    endpoint_url: str | None = None
    timeout: float = 60.0
    max_concurrency: int = DEFAULT_MAX_CONCURRENCY
    max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES
    server_side_encryption: str | None = None
    kms_key_id: str | None = None
    expected_bucket_owner: str | None = None

    def storage(
        self, *, on_operation: OperationHook | None = None, on_operation_keys: bool = False
    ) -> S3Storage:
        """Make the storage, closed.

        Args:
            on_operation: As of `S3Storage`.
            on_operation_keys: As of `S3Storage`.

        Raises:
            TypeError: `on_operation` is not a plain function.
            ValueError: A value is out of its range.
            InvalidIdentifierError: The prefix can't be part of a key, or is too long.
        """
        # A subclass may have fields of its own.
        return S3Storage(
            on_operation=on_operation,
            on_operation_keys=on_operation_keys,
            **self.model_dump(include=set(StorageSettings.model_fields)),
        )


@asynccontextmanager
async def storage_lifespan(
    *apps: Starlette, storage: ObjectSnapshotStorage | None = None
) -> AsyncIterator[None]:
    """Hold a storage open for as long as an app runs; at its end wait for what is under way.

    It is a lifespan, or a part of yours. Each worker process opens a storage of its own.

    Args:
        apps: The app, and whichever apps mounted in it are to use the same storage: Starlette runs
            the lifespan of the outermost app only.
        storage: A storage that is not open; `None` for that of `StorageSettings()`. One for each
            call: a storage can't be opened twice.

    Raises:
        TypeError: One of `apps` is not an app (pass the storage as `storage=`).
        LifecycleError: The storage is open already, for another app perhaps.
        pydantic.ValidationError: The environment has not what `StorageSettings` needs.

    Example:
        As it is, with another storage, and inside a lifespan of your own::

            app = FastAPI(lifespan=storage_lifespan)

            app = FastAPI(lifespan=lambda app: storage_lifespan(app, storage=S3Storage("chats")))

            @asynccontextmanager
            async def lifespan(app: FastAPI) -> AsyncIterator[None]:
                async with storage_lifespan(app), open_model():
                    yield
    """
    for app in apps:
        if not isinstance(app, Starlette):
            raise TypeError(f"{type(app).__name__} is not an app; pass a storage as storage=…")
    async with StorageSettings().storage() if storage is None else storage as opened:
        for app in apps:
            app.state.snapstore_storage = opened
        try:
            yield
        finally:
            for app in apps:
                del app.state.snapstore_storage


async def get_storage(connection: HTTPConnection) -> ObjectSnapshotStorage:
    """Give an endpoint, of HTTP or of a WebSocket, its app's storage; `Storage` depends on it.

    Raises:
        StorageClosedError: The app's lifespan does not run, or has no `storage_lifespan`.

    Example:
        Another storage in tests::

            app.dependency_overrides[get_storage] = lambda: storage
    """
    state = connection.app.state
    storage: ObjectSnapshotStorage | None = getattr(state, "snapstore_storage", None)
    if storage is None:
        raise StorageClosedError(
            "this app has no open storage: it needs FastAPI(lifespan=storage_lifespan), or that "
            "inside its own lifespan, and the lifespan must run; tests run it with "
            "'with TestClient(app)'; a mounted app's is never run: "
            "name it in that of the outer app, storage_lifespan(app, mounted)"
        )
    return storage


Storage = Annotated[ObjectSnapshotStorage, Depends(get_storage)]
"""The annotation by which an endpoint asks for its app's storage."""


class SnapshotJSONResponse(JSONResponse):
    """JSON written as snapshots are: exactly, or not at all.

    FastAPI's own responses fail on a text that was cut in the middle of an emoji, which leaves a
    lone surrogate. Snapshots carry it; this response does too, written as JavaScript does.

    Raises:
        SnapshotEncodeError: The content holds what JSON can't carry exactly.

    Example:
        For one answer, or as `FastAPI(default_response_class=SnapshotJSONResponse)` for all::

            return SnapshotJSONResponse(snapshot.data, headers={"ETag": f'"{read.etag}"'})
    """

    def render(self, content: Any) -> bytes:
        """Write the content."""
        return encode_json(content)


class _Answer(JSONResponse):
    """What went wrong, over HTTP; a WebSocket is closed with 4000 more than the HTTP status."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4000 + self.status_code})
        else:
            await super().__call__(scope, receive, send)


# The words are for an app's clients: they name neither bucket nor key.
_ANSWERS: Final[dict[type[Exception], tuple[int, str | None]]] = {
    InvalidIdentifierError: (422, None),
    SnapshotConflictError: (409, "Another writer came first: load again."),
    SnapshotNotFoundError: (404, "There is no such snapshot."),
    StorageUnavailableError: (503, "The storage is not available: try again later."),
    StorageTimeoutError: (503, "The storage took too long. A change may have been made."),
    OutcomeUnknownError: (503, "It is not known whether the change was made: load to find out."),
}


async def _answer(_: Request, error: Exception) -> Response:
    status, detail = next(_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS)
    headers: dict[str, str] = {}
    if isinstance(error, StorageUnavailableError | StorageTimeoutError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 0)))
    if status >= 500:
        logger.warning("a request was answered with %d: %s", status, error)
    return _Answer({"detail": detail or str(error), "error": type(error).__name__}, status, headers)


error_handlers: Final[
    dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]
] = dict.fromkeys(_ANSWERS, _answer)
"""How errors of snapstore are answered, for `FastAPI(exception_handlers=error_handlers)`.

- `SnapshotConflictError`: 409
- `SnapshotNotFoundError`: 404
- `InvalidIdentifierError`: 422, with its message
- `StorageUnavailableError`, `StorageTimeoutError`: 503 with `Retry-After`
- `OutcomeUnknownError`: 503 without it, since the change might be made twice

The body is JSON: `detail` in words and `error`, the name of the class. All others are faults of the
app, of its configuration or of what is stored, and take the way of every exception that nothing
handles: 500 without details, the traceback in the log, and raised by `TestClient`. No answer and no
record has text of a snapshot. A WebSocket is closed with 4000 more than the status.
"""
