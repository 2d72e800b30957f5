"""snapstore inside other frameworks: a module or package each, and an extra of its name."""
