"""The dashboard: static files in `static/`, and the routes in `api.py` that serve them.

It uses only the public API. Only `main` imports this package.
"""
