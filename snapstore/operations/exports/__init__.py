"""Export a session to a file, and import it."""
