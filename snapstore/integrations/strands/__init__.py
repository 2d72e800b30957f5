"""Strands agents, in both languages: one session that either SDK can go on with.

What needs the SDK is imported when it is asked for, so that a snapshot can be converted without it.
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
