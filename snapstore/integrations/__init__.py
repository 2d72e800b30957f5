"""What snapstore plugs into; each package here needs the extra of its name."""
