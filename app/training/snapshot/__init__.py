"""The ratings a run learns from, read as of one revision and stored on the trainer's host between runs.

`take` reads or updates a snapshot, `file` stores it, `merge` and `kernels` put changes over a stored one, `categories`
adds item features. Begin reading in `take.take_snapshot`. Imported by `training` and `tuning`.
"""
