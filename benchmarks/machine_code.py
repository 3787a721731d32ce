"""The vector instructions in the compiled kernel's loop over ratings.

    .venv/bin/python -m benchmarks.machine_code [32 64 128]

One pass of the loop makes two steps for all users of a bundle. A rating should take 3 k / 16 multiply-adds, minus the
one multiplication that starts its sum: k / 16 to predict it, k / 16 to update the user's vector, whose result
stays in a register, and k / 16 to update the item's, whose result goes to memory; and k / 32 multiplications for the
item's penalty, applied at every second step. All have 512 bits (zmm) if the processor has AVX-512; with AVX2
there are twice as many of 256 bits (ymm). The few narrow ones (xmm) are biases, slopes and squares.
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

from app.engine.losses.catalog import SQUARED
from app.engine.sgd.kernel_cache import load_kernel
from app.engine.sgd.kernel_template import n_streams_for
from app.engine.simd.lanes import padded

COLUMNS = ("FMA to registers", "FMA to memory", "multiplications", "loads + stores", "prefetches", "instructions")
_LABEL = re.compile(r"^(\.?[\w$.]+):")
_JUMP = re.compile(r"^\s*j\w+\s+(\.?[\w$.]+)\s*$")
_REGISTER = re.compile(r"%([xyz]mm\d+)")
_FMA = re.compile(r"^\s*vf(?:n)?m(?:add|sub)\d+ps\b")
_STORE = re.compile(r"^\s*vmov[au]ps\s+%[xyz]mm\d+,\s*[^%\s]*\(")


def main() -> None:
    table = Table(title="Vector instructions in one pass of the loop over ratings", title_justify="left")
    for column in ("k", "ratings", *COLUMNS):
        table.add_column(column, justify="right")
    for k in [int(word) for word in sys.argv[1:]] or [32, 64, 128]:
        table.add_row(str(k), str(2 * n_streams_for(padded(k))), *_cells(rating_loop(k)))
    Console(width=120).print(table)


def rating_loop(k: int) -> list[str]:
    """Lines of the innermost loop with the most multiply-adds in a freshly compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:  # Numba does not show code that it took from a cache
        kernel: Any = load_kernel(SQUARED, padded(k), Path(folder))
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
    """Register widths of the multiply-adds whose result stays in a register, and of those whose goes to memory."""
    in_register: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    for at, line in enumerate(loop):
        if _FMA.match(line):
            result = _REGISTER.findall(line)[-1]
            following = next((later for later in loop[at + 1 :] if f"%{result}" in later), "")
            (stored if _STORE.match(following) else in_register)[result[:3]] += 1
    return in_register, stored


def _cells(loop: Sequence[str]) -> list[str]:
    in_register, stored = multiply_adds(loop)
    multiplications = Counter(
        _REGISTER.findall(line)[-1][:3] for line in loop if re.match(r"^\s*vmulps", line) and _REGISTER.search(line)
    )
    stores = sum(bool(_STORE.match(line)) for line in loop)
    loads = sum("(" in line and bool(_REGISTER.search(line)) for line in loop) - stores
    n_instructions = sum(bool(re.match(r"^\s+[a-z]", line)) for line in loop)
    prefetches = sum("prefetch" in line for line in loop)
    counts = (f"{loads} + {stores}", prefetches, n_instructions)
    return [*map(_widths, (in_register, stored, multiplications)), *map(str, counts)]


def _widths(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {width}" for width, count in sorted(counts.items(), reverse=True)) or "-"


if __name__ == "__main__":
    main()
