"""What all endpoints share of HTTP: the fast path, limits of bodies and concurrency, idempotency, ids, OpenAPI.

Every feature may import it; it imports only `app.db`, `app.errors` and `app.settings`. Begin with `fast_path`.
"""
