"""Explicit vector instructions for Numba kernels: float32 rows, int8 products, prefetches, atomic counters.

Imports nothing but `arrays`; any kernel may import it. Begin with `lanes`, then `float_vectors`.
"""
