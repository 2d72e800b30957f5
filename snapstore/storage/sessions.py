"""The operations of a storage on whole sessions: find them, describe one, delete one."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from snapstore.model.ids import validate_identifier
from snapstore.model.sessions import SessionDescription, SessionOrder, SessionPage
from snapstore.model.snapshot import DeletedSession
from snapstore.storage.base import StorageBase
from snapstore.storage.deletion import SessionDeletion
from snapstore.storage.listing import flatten
from snapstore.storage.session_figures import describe_session
from snapstore.storage.session_ids import SessionIds
from snapstore.storage.session_pages import SessionPages

__all__ = ["SessionOperations"]


class SessionOperations(StorageBase):
    """Part of `snapstore.ObjectSnapshotStorage`."""

    def iter_sessions(self, *, start_after: str | None = None) -> AsyncGenerator[str, None]:
        """Walk the ids of the sessions, with a page in memory at a time.

        An id is listed if anything lies under `<session_id>/scopes/`: more than that only a listing
        of each session could tell, as `list_sessions` and `describe_session` make it. What is there
        all the while comes exactly once. A session that is written or deleted meanwhile may come or
        not. On S3 up to 1,000 ids cost one request.

        Args:
            start_after: Leave out this session and all before it. It need not exist. For each `-`
                in it there is one more request.

        Returns:
            An async generator. Close it if you leave it early. The ids ascend as their keys do,
            `s-1` before `s`, since `-` is less than `/`.

        Raises:
            InvalidIdentifierError: `start_after` is no session id.
            InvalidResponseError: The store's listing is broken, or sorted neither by the bytes of
                the keys nor directory by directory.

        Example:
            ::

                async with aclosing(storage.iter_sessions()) as sessions:
                    async for session_id in sessions:
                        ...
        """
        if start_after is not None:
            start_after = validate_identifier(start_after, "start_after")
        pages = SessionIds(self.objects, self.layout).sorted_pages(start_after)
        if self._observer is not None:
            pages = self._observer.watch_pages("iter_sessions", self.layout, pages)
        return flatten(pages)

    async def list_sessions(
        self, *, limit: int, order: SessionOrder = "id", cursor: str | None = None
    ) -> SessionPage:
        """List sessions with what a sidebar shows of them, page by page.

        There is no index. A summary costs a listing of the session, one request for 1,000 objects,
        up to 100 of them at the same time. In the orders `"id"` and `"created"` only the sessions
        of the page are listed. In the order `"updated"` every page lists *all* sessions of the
        storage: give each user a namespace of their own.

        Args:
            limit: How many at the most; 1 to 1,000.
            order: `"id"` as `iter_sessions`; `"created"`, newest first, where all session ids are
                UUIDv7, as `new_snapshot_id` makes them; `"updated"`, last updated first, those
                without a time last.
            cursor: The cursor of the page before this one, from the same order; `None` for the
                first page. A session that is updated between two pages may be missed.

        Returns:
            The summaries, as many as there are up to `limit`, and a cursor.

        Raises:
            TypeError: `limit` is no whole number.
            ValueError: `limit` or `order` is not valid.
            InvalidIdentifierError: The cursor is not one of this order, or was changed; or, with
                `"created"`, a session id that was listed is no UUIDv7.
            InvalidResponseError: The store's listing is broken.
        """
        with self._operation("list_sessions"):
            return await SessionPages(self.objects, self.layout).page(limit, order, cursor)

    async def describe_session(self, *, session_id: str) -> SessionDescription | None:
        """Describe a session in figures: locations, counts, bytes and times, without any content.

        It costs a listing of all objects under the session's name, and one of its stash. Objects
        are read only where the store's listings don't tell their sizes.

        Args:
            session_id: The session.

        Returns:
            The description; `None` if no object of the layout lies under the session's name.

        Raises:
            InvalidResponseError: The store's listing is broken.
        """
        with self._operation("describe_session"):
            return await describe_session(self.objects, self.layout, session_id)

    async def delete_session(self, *, session_id: str) -> DeletedSession:
        """Delete every object of a session: all scopes, latest, history and manifests.

        It is not atomic: what another writer saves meanwhile may stay. In a versioned bucket the
        versions stay. A session is what has an object of the layout directly under its name
        (`<session_id>/scopes/…`). Under a name without one, as `backups`, nothing is deleted. Nor
        is what belongs to another store that lies nested under the session's name, like that of a
        prefix `tenant1` under a session `tenant1`: its sessions, and the directories `context/`,
        `memory/` and `offloader/` of the Strands SDKs.

        A delete that failed or was cancelled can be repeated.

        Args:
            session_id: The session. If it has no objects, nothing is done.

        Returns:
            How many objects were deleted, and how many kept.

        Raises:
            PartialDeleteError: Some objects were not confirmed as deleted. `failed` names them,
                `"Unconfirmed"` being the code of those whose request failed or was not made. If a
                later request failed as a whole, its error is the cause, and what had not been
                listed yet is not named.
        """
        with self._operation("delete_session"):
            prefix = self.layout.session_prefix(session_id)
            return await SessionDeletion(self.objects, prefix).run()
