"""The report as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(width=150)

MET, MISSED = "[green]yes[/]", "[red]no[/]"


def print_facts(report: dict[str, Any]) -> None:
    for part in ("machine", "peers"):
        console.print(f"[bold]{part}[/]: " + ", ".join(f"{name} {value}" for name, value in report[part].items()))
    console.print()


def print_section(name: str, rows: Any) -> None:
    _PRINTERS[name](rows)


def _verdict(met: bool) -> str:
    return MET if met else MISSED


def _print_rates(title: str) -> Callable[[Sequence[dict[str, Any]]], None]:
    def show(rows: Sequence[dict[str, Any]]) -> None:
        head = ("data", "peer", "k", "threads", "peer", "Palate", "Palate / peer", "bar", "met", "rounds")
        table = _table(title, *head)
        for row in rows:
            table.add_row(
                *(row["data"], row["peer"], str(row["n_factors"]), str(row["n_threads"])),
                *(f"{row['theirs']:.1f}", f"{row['ours']:.1f}", f"{row['ratio']:.2f}"),
                *(f"{row['bar']:g}", _verdict(row["ratio"] >= row["bar"]), row["note"]),
            )
        console.print(table)

    return show


def _print_quality(rows: Sequence[dict[str, Any]]) -> None:
    head = ("data", "target", "LIBMF's setting", "test RMSE", "seconds", "Palate's setting", "test RMSE", "seconds")
    table = _table(
        "Wall time to the same test error, 64 factors", *head, "of it layout + epochs", "ratio", "met", "rounds"
    )
    for row in rows:
        parts = f"{row['our_layout_seconds']:.3f} + {row['our_epoch_seconds']:.3f}"
        setting = "{n_epochs} epochs, step {learning_rate:g}, penalty {regularization:g}".format(**row["our_setting"])
        met = _verdict(row["reached"] and row["ratio"] >= row["bar"]) if row["bar"] else "-"
        ratio = f"{row['ratio']:.2f}" if row["reached"] else f"({row['ratio']:.2f}) target missed"
        table.add_row(
            *(row["data"], row["target"], row["libmf_setting"], f"{row['libmf_rmse']:.4f}"),
            *(f"{row['libmf_seconds']:.3f}", setting, f"{row['our_rmse']:.4f}", f"{row['our_seconds']:.3f}"),
            *(parts, ratio, met, row["note"]),
        )
    console.print(table)


def _print_steady(parts: dict[str, Any]) -> None:
    table = _table("Same bits", "data", "fits", "digests", "met")
    for row in parts["bits"]:
        table.add_row(
            *(row["data"], "; ".join(row["digests"])),
            *(" ".join(sorted({digest[:12] for digest in row["digests"].values()})), _verdict(row["same"])),
        )
    console.print(table)
    head = ("data", "two cores", "one of them taken", "share", "bar", "met", "rounds")
    table = _table("Beside a busy neighbour, million ratings/s, 64 factors, 2 threads", *head)
    for row in parts["neighbour"]:
        table.add_row(
            *(row["data"], f"{row['quiet']:.1f}", f"{row['disturbed']:.1f}", f"{row['share']:.0%}"),
            *(f"{row['bar']:.0%}", _verdict(row["share"] >= row["bar"]), row["note"]),
        )
    console.print(table)


def _print_size(parts: dict[str, Any]) -> None:
    epochs = parts["epochs"]
    table = _table("Growth and memory", "what", "measured", "bar", "met", "rounds")
    seconds = ", ".join(f"{name} {value:.3f} s" for name, value in epochs["seconds"].items())
    growth = f"{epochs['growth']:.1f} times for {epochs['times the ratings']:.1f} times the ratings"
    table.add_row("time per epoch", f"{seconds}: {growth}", "25", _verdict(epochs["growth"] <= 25), epochs["note"])
    for row in parts["memory"]:
        what = f"peak memory, {row['data']}" + (", 5 % held out" if row["holdout"] else "")
        table.add_row(what, f"{row['gibibytes']:.2f} GiB", "2.00", _verdict(row["gibibytes"] <= row["bar"]), "")
    console.print(table)


def _print_reference(parts: dict[str, float | None]) -> None:
    for name, seconds in parts.items():
        if seconds is not None:
            console.print(
                f"implicit ALS, for reference: {seconds:.2f} s per iteration on {name}, 64 factors, 2 threads"
            )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in {"data", "peer"} else "right")
    return table


_PRINTERS: dict[str, Callable[[Any], None]] = {
    "rates": _print_rates("Million ratings per second"),
    "one_thread": _print_rates("Million ratings per second, one thread"),
    "first_level_cache": _print_rates("Million ratings per second, one thread, and with all vectors in the L1 cache"),
    "quality": _print_quality,
    "steady": _print_steady,
    "size": _print_size,
    "reference": _print_reference,
}
