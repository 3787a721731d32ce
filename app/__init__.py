"""Palate: a recommendation microservice that learns from rating values."""

from importlib.metadata import version

__version__ = version("palate")
