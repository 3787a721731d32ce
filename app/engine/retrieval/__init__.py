"""Retrieval: the best items for a user, exactly. By predicted rating, relevance, an end of the interval, or diversity.

Uses fold_in and the vector code of simd; averaging, the library and serving use it. Begin with `retriever.py`, the
protocol that `brute_force.py` and `index.py` implement with the same results.
"""
