"""Losses are declared as expressions; their slopes are derived, never written by hand."""
