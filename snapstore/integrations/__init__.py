"""snapstore inside other frameworks: one module each, imported by name, and an extra each."""
