"""Liveness, readiness and status over HTTP, and the metrics that a scrape reads from the database.

Imported by `main` only; imports the packages whose state it reports. Begin with `api`.
"""
