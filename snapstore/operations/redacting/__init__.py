"""Remove texts from everything that was ever saved of a session."""
