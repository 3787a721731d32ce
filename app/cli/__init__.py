"""The `palate` command: each subcommand reads its arguments, calls one function and prints the result.

Start at `__main__.py`, which lists the subcommands; `serve.py`, `data.py`, `train.py`, `tune.py`, `models.py` and
`keys.py` hold them, the other files what they share. Heavy modules are imported inside the functions, so that
`palate --help` is quick. Nothing imports this package.
"""
