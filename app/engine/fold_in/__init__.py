"""Folding in: a user's vector, predictions, intervals and explanations from the user's current ratings.

Uses the losses, the data and the linear algebra of the engine; retrieval, training and serving use it. Begin with
`fold_in.py`, whose `FoldIn` is what others call; its kernels take a model as the record of `kernel_model.py`.
"""
