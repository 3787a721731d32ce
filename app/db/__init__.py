"""The database, SQLite or PostgreSQL: engine, connections, table conventions, revisions, ids and keys, cursors.

Knows nothing of any table but `counters`. Every package that stores something imports it; it imports settings, errors
and the engine's array types only. Begin with `engine.py`: `Database` and its transactions.
"""
