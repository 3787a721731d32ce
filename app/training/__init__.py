"""Training runs: queued as rows, worked on by one trainer process under a lease, published as model versions.

`queue` holds the rules of the rows, `run` is the story of one run, `snapshot` reads the ratings it learns from and
`evaluation` decides whether its model may be published. Begin reading in `run.execute`. May be imported by `tuning`,
the worker and what stands above them; imports `registry`, `ratings`, `items`, `db` and the engine.
"""
