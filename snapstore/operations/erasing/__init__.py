"""Erase sessions for good, with a receipt."""
