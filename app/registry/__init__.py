"""Model versions: their folders on disk, their rows in the database, and the one that a process serves.

`artifacts` writes, verifies and loads folders; `versions` publishes, activates and prunes; `live` follows the active
version in a serving process; `metrics` is the record of what a run measured. Imported by `training`, `recommendations`
and what is above them; imports the database and the engine. Begin with `artifacts`.
"""
