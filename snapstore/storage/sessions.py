"""The operations of a storage on whole sessions."""

from __future__ import annotations

from snapstore.model.snapshot import DeletedSession
from snapstore.storage.base import StorageBase
from snapstore.storage.deletion import SessionDeletion

__all__ = ["SessionOperations"]


class SessionOperations(StorageBase):
    """Part of `snapstore.ObjectSnapshotStorage`."""

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
