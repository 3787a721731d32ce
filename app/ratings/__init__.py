"""Ratings: recording one or many, reading them for lists and for training, import, export and erasure.

Recommendations, training and backups import it; it imports items, imports, http and db. Begin with `models.py`, then
`store.py`, which says how ratings are written, and `user_ratings.py`, which says how they are read.
"""
