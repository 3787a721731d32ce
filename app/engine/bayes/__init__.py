"""Posterior averaging: the mean of the predictions of many models, sampled from the posterior by a Gibbs chain.

Uses sgd for the start, fold_in and retrieval; training uses it. Begin with `average.py`: it runs the chain of
`gibbs.py`, which `compress.py` turns into one model and `calibrate.py` fits to the hold-out.
"""
