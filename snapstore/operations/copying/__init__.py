"""Copy sessions from one storage to another."""
