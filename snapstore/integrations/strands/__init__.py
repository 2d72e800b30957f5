"""Sessions of Strands agents, in Python and in TypeScript.

- `StrandsStorage`: a storage for the SDK, in an S3 bucket or over any object store.
- `SnapstoreSessionManager`: the SDK's session manager, for which no writer replaces another's work
  without an error.
- `convert_snapshot`, `convert_interrupt_id`, `is_snapshot_key`: from one SDK's dialect to the
  other's.

The first two need the SDK, and are imported when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from snapstore.integrations.strands.convert import convert_snapshot, is_snapshot_key
from snapstore.integrations.strands.interrupts import convert_interrupt_id

if TYPE_CHECKING:
    from snapstore.integrations.strands.manager import OnConflict, SnapstoreSessionManager
    from snapstore.integrations.strands.storage import StrandsStorage

__all__ = [
    "OnConflict",
    "SnapstoreSessionManager",
    "StrandsStorage",
    "convert_interrupt_id",
    "convert_snapshot",
    "is_snapshot_key",
]

_NEED_THE_SDK = {
    "OnConflict": "manager",
    "SnapstoreSessionManager": "manager",
    "StrandsStorage": "storage",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_THE_SDK:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(f"{__name__}.sdk")  # says what to install, if it is not there
    return getattr(import_module(f"{__name__}.{_NEED_THE_SDK[name]}"), name)
