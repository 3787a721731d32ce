"""Training by stochastic gradient descent: the grid of ratings, the generated kernel, and the trainer.

Imports `fold_in`, `losses` and `data`; `bayes`, `search`, `library` and the training room may import it. Begin with
`trainer` (the interface) and `local` (one fit from start to end); then `grid` and `kernel_template`.
"""
