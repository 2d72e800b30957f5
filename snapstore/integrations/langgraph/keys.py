"""Where the objects of a thread lie.

::

    [<prefix>/]<thread>/<namespace>/
        c/<inverted id>                     a checkpoint
        w/<inverted id>/<task>/<stamp>      writes of a task, those of one call
        v/<channel>/<id>-<hash>             a large value of a channel
        head                                the newest checkpoint, with on_conflict="raise"

Ids of checkpoints grow with time. In an inverted id each hexadecimal digit is 15 less itself, so
that a listing has the newest checkpoint first.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from snapstore.errors import InvalidIdentifierError
from snapstore.integrations.segments import MAX_SEGMENT_BYTES, to_segment

__all__ = ["LONGEST_KEY", "Namespace", "invert", "thread_root", "validate_checkpoint_id"]

_TASK_BYTES: Final = 100
LONGEST_KEY: Final = 3 * (MAX_SEGMENT_BYTES + 1) + len("v//") + 36 + 1 + 32
"""Bytes of the longest key after the prefix: that of a value."""

_DIGITS: Final = "0123456789abcdef"
_INVERTED = str.maketrans(_DIGITS, _DIGITS[::-1])
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def validate_checkpoint_id(checkpoint_id: object) -> str:
    """Check the id of a checkpoint.

    Raises:
        InvalidIdentifierError: It is no UUID, in lower case and with hyphens.
    """
    if not isinstance(checkpoint_id, str) or not _ID.fullmatch(checkpoint_id):
        raise InvalidIdentifierError(
            "checkpoint_id must be a UUID in lower case, as LangGraph makes them"
        )
    return checkpoint_id


def invert(checkpoint_id: str) -> str:
    """An id with its order reversed; inverted again, it is the id."""
    return checkpoint_id.translate(_INVERTED)


class Namespace(NamedTuple):
    """The keys of one namespace of a thread: of a graph, or of a subgraph.

    Attributes:
        root: What all its keys begin with; ends with `/`.
    """

    root: str

    @classmethod
    def of(cls, base: str, thread_id: str, checkpoint_ns: str) -> Namespace:
        """The namespace of this name.

        Args:
            base: What all keys begin with.
            thread_id: The thread: any text.
            checkpoint_ns: The namespace: any text.

        Raises:
            InvalidIdentifierError: One of them is no `str`.
        """
        return cls.in_thread(thread_root(base, thread_id), checkpoint_ns)

    @classmethod
    def in_thread(cls, thread: str, checkpoint_ns: str) -> Namespace:
        """The namespace of this name.

        Args:
            thread: What the keys of the thread begin with.
            checkpoint_ns: The namespace: any text.

        Raises:
            InvalidIdentifierError: It is no `str`.
        """
        return cls(f"{thread}{to_segment(checkpoint_ns, 'checkpoint_ns')}/")

    @property
    def head(self) -> str:
        """The key of the newest checkpoint."""
        return f"{self.root}head"

    @property
    def checkpoints(self) -> str:
        """What the keys of all checkpoints begin with."""
        return f"{self.root}c/"

    def checkpoint(self, checkpoint_id: str) -> str:
        """The key of a checkpoint."""
        return f"{self.root}c/{invert(checkpoint_id)}"

    @property
    def all_writes(self) -> str:
        """What the keys of the writes of all checkpoints begin with."""
        return f"{self.root}w/"

    def writes(self, checkpoint_id: str) -> str:
        """What the keys of the writes of a checkpoint begin with."""
        return f"{self.root}w/{invert(checkpoint_id)}/"

    def new_writes(self, checkpoint_id: str, task_id: str, stamp: str) -> str:
        """The key of the writes of one call."""
        task = to_segment(task_id, "task_id", max_bytes=_TASK_BYTES)
        return f"{self.writes(checkpoint_id)}{task}/{stamp}"

    @property
    def values(self) -> str:
        """What the keys of all large values begin with."""
        return f"{self.root}v/"

    def id_of(self, key: str) -> str | None:
        """The checkpoint that an object belongs to.

        Args:
            key: A key under the root.

        Returns:
            The id; of a value, of the checkpoint that it was written with. `None` for the head and
            for what is not ours.
        """
        kind, _, rest = key.removeprefix(self.root).partition("/")
        if kind == "c":
            found = invert(rest)
        elif kind == "w":
            found = invert(rest.partition("/")[0])
        elif kind == "v":
            found = rest.rpartition("/")[2].rpartition("-")[0]
        else:
            return None
        return found if _ID.fullmatch(found) else None


def thread_root(base: str, thread_id: str) -> str:
    """What the keys of a thread begin with.

    Raises:
        InvalidIdentifierError: The id is no `str`.
    """
    return f"{base}{to_segment(thread_id, 'thread_id')}/"
