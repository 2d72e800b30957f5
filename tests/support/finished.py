"""What finished archives leave beside packs: nothing, where a claim can be removed safely."""

from snapstore.stores.capabilities import ConditionalDeleteStore, capability


async def without_idle_claims(storage, keys):
    """Keys without those of idle claims, where the store can't delete on a condition.

    There a claim can't be removed safely: that of each pack stays, idle.
    """
    deleting = capability(storage.objects, ConditionalDeleteStore)
    scratch = storage.layout.sessions_prefix + "scratch"
    if deleting is not None and await deleting.has_conditional_deletes(scratch):
        return [*keys]
    kept = []
    for key in keys:
        stored = await storage.objects.get(key, max_bytes=2**30)
        is_idle = key.endswith(".claim") and b'"state":"idle"' in bytes(stored.data)
        if not is_idle:
            kept.append(key)
    return kept
