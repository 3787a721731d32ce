"""API keys: their table and endpoints, the guard that authorizes every request, and the rate limit.

Start reading at `guard.py`. Packages above it may import it: `main`, `cli` and `backup` do.
"""
