"""Declared losses: parsed from text, differentiated by SymPy, turned into code for the kernels.

A loss is an expression; its derivatives are never written by hand. Imports `simd` and arrays; everything above may
import it. SymPy is imported only inside functions: serving and `palate --help` do without. Begin with `base` and
`declare`; then `grammar`, `symbols`, `codegen`.
"""
