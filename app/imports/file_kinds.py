"""What may be told about a file to import; apart from the code that reads it, so that `palate --help` stays quick."""

from typing import Literal

FileFormat = Literal["auto", "csv", "tsv", "double_colon", "ndjson"]
Encoding = Literal["utf-8", "latin-1"]
