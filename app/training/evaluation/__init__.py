"""How good a fit is on ratings held out, and whether it may replace the active version.

`holdout` predicts the ratings held out and measures the errors, `gate` compares with the active version, `report`
breaks the errors down, `tables` prints them. Begin reading in `holdout`. Imported by `training.run` and the CLI.
"""
