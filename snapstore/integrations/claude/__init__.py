"""Transcripts of the Claude Agent SDK.

- `SnapstoreSessionStore`: a `SessionStore` for the SDK, over any object store.
- `CompactedTranscript`: what its `compact` returns.
"""

try:
    from snapstore.integrations.claude.compaction import CompactedTranscript
    from snapstore.integrations.claude.store import SnapstoreSessionStore
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] not in {"claude_agent_sdk", "anyio"}:
        raise
    raise ModuleNotFoundError(
        "this needs the Claude Agent SDK, 0.2.88 or newer: pip install 'snapstore[claude]'",
        name=_error.name,
    ) from None

__all__ = ["CompactedTranscript", "SnapstoreSessionStore"]
