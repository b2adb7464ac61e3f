"""A benchmark's numbers on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print what was measured."""
    height, width = report["image"]
    console.print(
        f"{report['detector'] or 'files'}: images of {height} × {width}, {report['device']}, "
        f"{report['threads']} threads, {report['repeats']} repeats in turns",
        highlight=False,
    )
    if report["detector"] is not None:
        count, flops = report["parameters"], report["flops"]
        console.print(
            f"{count['all'] / 1e6:.1f} M parameters, {count['trainable'] / 1e6:.1f} M of them trainable; "
            f"{flops['total'] / 1e9:.1f} GFLOPs for one image ({flops['convention']})",
            highlight=False,
        )
    latency = _table("backend", "batch", "median ms", "90 % below ms", "images/s", "memory MB")
    for row in report["latency"]:
        memory = "" if row["memory"] is None else f"{row['memory'] / 1e6:.0f}"
        times = (f"{1000 * row['median']:.1f}", f"{1000 * row['p90']:.1f}", f"{row['images_per_second']:.2f}")
        latency.add_row(row["backend"], str(row["batch_size"]), *times, memory)
    console.print(latency)
    if "parts" not in report:
        return
    parts = _table("part", "median ms", "share", "M parameters", "GFLOPs")
    for row in report["parts"]:
        operations = report["flops"]["parts"].get(row["part"])
        parts.add_row(
            row["part"],
            f"{1000 * row['median']:.1f}",
            f"{row['share']:.0%}",
            f"{row['parameters'] / 1e6:.2f}" if row["parameters"] else "",
            f"{operations / 1e9:.2f}" if operations else "",
        )
    console.print(parts)


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, pad_edge=False)
    for name in others:
        table.add_column(name, justify="right")
    return table
