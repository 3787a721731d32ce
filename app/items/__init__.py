"""Items: titles, categories, attributes and visibility; endpoints, bulk import and queries.

Ratings, recommendations and training import its queries. Begin with `models.py`, then `store.py`.
"""
