"""Palate as a Python library: `fit.fit` for the service's model, `factorize.factorize` for the textbook one.

Imports the whole engine; nothing in the app may import it.
"""
