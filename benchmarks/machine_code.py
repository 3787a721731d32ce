"""What the compiled kernel is made of: the vector instructions of its loop over ratings.

    .venv/bin/python -m benchmarks.machine_code [32 64 128]

The loop is unrolled over a row of k / 16 full registers. Its dot product should take k / 16 multiply-adds, less the one
or two plain multiplications that start its sums, and its update 2 k / 16, all of them 512 bits wide (zmm) where the
processor has AVX-512. On AVX2 there are twice as many of 256 bits (ymm). `plain` is the reference loop as the compiler
vectorises it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.engine.kernel import load_kernel
from app.engine.lanes import padded
from app.engine.losses.catalog import SQUARED

_LABEL = re.compile(r"^(\.?[\w$.]+):")
_JUMP = re.compile(r"^\s*j\w+\s+(\.?[\w$.]+)\s*$")
_REGISTER = re.compile(r"%([xyz]mm\d+)")
_FMA = re.compile(r"^\s*vf(?:n)?m(?:add|sub)\d+ps\b")
_STORE = re.compile(r"^\s*vmov[au]ps\s+%[xyz]mm\d+,\s*[^%\s]*\(")


def main() -> None:
    table = Table(title="Vector instructions in one pass of the loop over ratings", title_justify="left")
    for column in ("k", "kernel", "dot: FMA", "update: FMA", "multiplications", "loads + stores", "instructions"):
        table.add_column(column, justify="right")
    for k in [int(word) for word in sys.argv[1:]] or [32, 64, 128]:
        for explicit in (True, False):
            table.add_row(str(k), "explicit" if explicit else "plain", *_cells(rating_loop(k, explicit=explicit)))
    Console(width=120).print(table)


def rating_loop(k: int, *, explicit: bool) -> list[str]:
    """Lines of the innermost loop with the most multiply-adds in a freshly compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:  # Numba does not show code that it took from a cache
        kernel: Any = load_kernel(SQUARED, padded(k), Path(folder), explicit_vectors=explicit)
        (assembly,) = kernel.inspect_asm().values()
    return max(loops(assembly.splitlines()), key=lambda lines: sum(bool(_FMA.match(line)) for line in lines))


def loops(lines: Sequence[str]) -> list[list[str]]:
    """Innermost stretches from a label to a jump back to it."""
    labels: dict[str, int] = {}
    spans = []
    for at, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = at
        elif (jump := _JUMP.match(line)) and jump[1] in labels:
            spans.append((labels[jump[1]], at))
    spans = [span for span in spans if any(_FMA.match(line) for line in lines[span[0] : span[1]])]
    inner = [(a, b) for a, b in spans if not any((c, d) != (a, b) and a <= c and d <= b for c, d in spans)]
    return [list(lines[start : end + 1]) for start, end in inner]


def multiply_adds(loop: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
    """Register widths of the dot's multiply-adds, and of the update's: those whose result goes straight to memory."""
    dot: Counter[str] = Counter()
    update: Counter[str] = Counter()
    for at, line in enumerate(loop):
        if _FMA.match(line):
            result = _REGISTER.findall(line)[-1]
            following = next((later for later in loop[at + 1 :] if f"%{result}" in later), "")
            (update if _STORE.match(following) else dot)[result[:3]] += 1
    return dot, update


def _cells(loop: Sequence[str]) -> list[str]:
    dot, update = multiply_adds(loop)
    multiplications = Counter(
        _REGISTER.findall(line)[-1][:3] for line in loop if re.match(r"^\s*vmulps", line) and _REGISTER.search(line)
    )
    stores = sum(bool(_STORE.match(line)) for line in loop)
    loads = sum("(" in line and bool(_REGISTER.search(line)) for line in loop) - stores
    n_instructions = sum(bool(re.match(r"^\s+[a-z]", line)) for line in loop)
    return [*map(_widths, (dot, update, multiplications)), f"{loads} + {stores}", str(n_instructions)]


def _widths(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {width}" for width, count in sorted(counts.items(), reverse=True)) or "-"


if __name__ == "__main__":
    main()
