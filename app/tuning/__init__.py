"""Hyperparameter searches: requested, queued and stored, worked on by the trainer, shown by API and command line.

A search is a training run of kind `search` with rows of its own; the trials themselves are `engine.search`. May import
`training` and what is below it. Begin with `study`, which works on a claimed search.
"""
