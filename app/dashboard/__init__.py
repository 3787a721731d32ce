"""The dashboard: static files in `static/`, and the routes that serve them. Only `main` imports this package."""
