"""The numerical engine: ratings in, factors and predictions out.

Pure: arrays and numbers only, no HTTP, no database, no settings; any room of the app may import it. Packages import
downwards, in the order of the contract in pyproject.toml. Begin with `data.ratings`, `factors` and `sgd.local`.
"""
