"""Bulk imports: a stream of bytes of any format becomes lines, rows and committed batches.

Ratings and items import it and say what a row is; it imports neither. Begin with `line_import.py`.
"""
