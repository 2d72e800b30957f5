"""OpenAI Agents SDK: a `Session` that keeps a conversation in S3, in files, or in memory.

::

    session = SnapstoreSession("user-123", S3ObjectStore("my-bucket"), prefix="agents")
    result = await Runner.run(agent, "What is the weather?", session=session)
"""

try:
    from snapstore.integrations.openai_agents.session import SnapstoreSession
except ImportError as _error:
    if (_error.name or "").partition(".")[0] != "agents":
        raise
    raise ImportError(
        "snapstore.integrations.openai_agents needs the OpenAI Agents SDK: "
        "pip install 'snapstore[openai-agents]'",
        name=_error.name,
    ) from None

__all__ = ["SnapstoreSession"]
