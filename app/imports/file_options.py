"""The options for reading a file, in a module of their own so that `palate --help` need not load the importer."""

from typing import Literal

FileFormat = Literal["auto", "csv", "tsv", "double_colon", "ndjson"]
Encoding = Literal["utf-8", "latin-1"]
