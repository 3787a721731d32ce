"""Ratings as arrays, ids and their rows, counts and sums, sets of rows, features of users and items.

Imports only `linalg`, `parallel`, `simd` and arrays; everything else in the engine may import it. Begin with `ratings`.
"""
