"""`palate backup` and `palate restore`: all data of a service in one archive, for SQLite and PostgreSQL.

Start reading at `backup.py` and `restore.py`; `archive` is the file format, `tables` reads and loads rows. Only `cli`
imports this package.
"""
