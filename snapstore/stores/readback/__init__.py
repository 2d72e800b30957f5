"""Read back conditional writes whose response was lost.

A conditional PUT is not idempotent under retry: if the server applied it and the response was lost,
the retry fails its precondition (412) against our own object (aws-sdk-java-v2 #6580). A proxy that
resends a PUT on its own has the same effect, and the client sees nothing but the 412. So every PUT
carries a *write id* in the object's metadata, shared by all its attempts. A conditional PUT also
carries the *lineage*: an entry for each version before it, newest first. A later writer carries on
the lineage of the version it read, so a write is also found after it was overwritten.

After a refusal (412), or when an attempt has no clear result, one HEAD is classified:

1. Our write id is the current one, or in the lineage: applied. The result is that version.
2. The lineage shows that another write replaced the version we were to replace: `SUPERSEDED`. Ours
   was not applied and never will be.
3. The object is still at the version to be replaced: `NOT_APPLIED`. But while an attempt without a
   response may still arrive at the server, the outcome is unknown.
4. Anything else: the refusal stands (`SUPERSEDED`) if every attempt was answered; if one was not,
   `UNKNOWN`.

Why case 2 is safe: a version is replaced at most once, because no two writes of a snapshot have the
same bytes, and so no two have the same etag. A version without a write id, as other writers leave
it, is known by its etag alone, and an etag can come back: see `lineage`.

Cases 2 and 3 don't exist for a create (`If-None-Match: *`): it replaces no version, and a delete
makes room for it again. So an object of another writer, or no object, says nothing about a create
whose response was lost.

A backend takes part by keeping metadata, by evaluating conditions, and by implementing
`WriteBackend`. `put` and `try_put` do the rest:

- `lineage`: the metadata that identifies a write, and what it tells about other versions.
- `write`: one write, what is known of its attempts, and the classification above.
- `resolve`: sends a write, and reads it back when its outcome is not clear.
"""

from snapstore.stores.readback.lineage import (
    LINEAGE,
    WRITE_ID,
    metadata_of_caller,
    version_of,
)
from snapstore.stores.readback.resolve import RefusedPut, WriteBackend, put, try_put
from snapstore.stores.readback.write import AttemptOutcome, Classification, Write

__all__ = [
    "LINEAGE",
    "WRITE_ID",
    "AttemptOutcome",
    "Classification",
    "RefusedPut",
    "Write",
    "WriteBackend",
    "metadata_of_caller",
    "put",
    "try_put",
    "version_of",
]
