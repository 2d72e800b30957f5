"""Read all of a session, and tell what is not as it should be."""
