"""Fork a session."""
