"""The figures as tables: for a terminal, or plain for a file or another program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..training.console import format_count, format_number
from .data import bottleneck
from .models import Sizes, clip_lengths
from .settings import Settings

PADDED = "padded decoder, logits of all positions; its spectrogram is made before the clock starts"
NOTES = {
    "usual": "stock encoder on clips padded with silence to 30 s, without a mask: they attend to the silence, "
    f"and so the loss is another one; {PADDED}",
    "plain": f"clips padded to the longest, padding masked; {PADDED}",
    "ours, 30s": "what `ta train` does: decoder packed, logits at target positions only; clips padded with silence to "
    "30 s before they are encoded",
    "ours": "the same with model.encoder_window=clip: clips packed in the encoder, too",
}


class Report:
    """Prints each table as soon as it is measured.

    Args:
        console: standard output.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._printed: set[str] = set()  # notes, each printed once

    def line(self, text: str) -> None:
        """Print a line unchanged; only a terminal breaks it between words."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _print(self, title: str, table: Table) -> None:
        self.line("")
        self.console.print(title, style="bold", markup=False, highlight=False)
        self.console.print(table)
        self.line("")

    def machine(
        self, machine: dict[str, Any], settings: Settings, sizes: Sizes, published: Sizes, audio_seconds: float
    ) -> None:
        """Print the settings and the machine of the measurement."""
        threads = f", {machine['threads']} threads" if machine["device"] == "cpu" else ""
        self.line(f"{machine['name']}{threads}, torch {machine['torch']}, {machine['precision']}")
        compiled = ", layers compiled" if settings.compile else ""
        self.line(f"attention of our step: {machine['attention']}{compiled}")
        encoder = _layers("encoder", sizes.encoder_layers, published.encoder_layers)
        decoder = _layers("decoder", sizes.decoder_layers, published.decoder_layers)
        self.line(f"{encoder}, {decoder}: {machine['weight_bytes'] / 2**30:.2f} GiB of random weights")
        count = settings.batch_size or 0
        lengths = clip_lengths(count, settings.seconds)
        clips = f"{count} clips of {lengths[0]:.1f} to {lengths[-1]:.1f} s, {audio_seconds:.0f} s in all"
        self.line(f"{clips}; median of {settings.steps} steps")

    def projector(self, measured: dict[str, Any], settings: Settings) -> None:
        """Print the variants side by side, and the parts of our own step."""
        variants, parts = measured["variants"], measured["parts"]
        title = f"Training step, {measured['projector']} projector ({format_count(measured['parameters'])} parameters)"
        table = _table("", *variants)
        for label, value in _rows(settings, variants):
            table.add_row(label, *(value(found) for found in variants.values()))
        self._print(title, table)
        for name in variants:
            if (note := NOTES[name]) not in self._printed:
                self.line(f"{name}: {note}")
                self._printed.add(note)
        rate = measured["matrix_flops_per_second"]
        self.line(f"matrix rate: a large matrix product runs at {rate / 1e12:,.3g} TFLOP/s in this precision")
        if parts:
            self._parts(parts, rate)

    def _parts(self, parts: dict[str, dict[str, float]], rate: float) -> None:
        whole = sum(part["seconds"] for part in parts.values())
        table = _table("part", "seconds", "share", "TFLOP", "of matrix rate")
        for name, part in parts.items():
            work = part["flops"]
            used = f"{work / part['seconds'] / rate:.0%}" if work and part["seconds"] else ""
            shown = format_number(work / 1e12) if work else ""
            table.add_row(name, format_number(part["seconds"]), f"{part['seconds'] / whole:.1%}", shown, used)
        self._print("Where our step's time goes", table)
        self.line("projector, head and loss: forward and backward.")

    def data(self, data: dict[str, Any], throughput: float | None) -> None:
        """Print the speed of the data pipeline next to that of the step."""
        rates = data["audio_hours_per_hour"]
        taken = [] if throughput is None else [format_number(throughput)]
        title = f"Data alone: {data['clips']:,} clips, {data['hours']:.2f} h"
        table = _table("workers", "audio hours an hour", *["our step takes"] * len(taken))
        for count, rate in rates.items():
            table.add_row(str(count), format_number(rate), *taken)
        self._print(title, table)
        if throughput is not None:
            self.line(bottleneck(rates, throughput))
        if data["usable_workers"] < max(rates):
            self.line(f"A run uses no more than {data['usable_workers']} workers here, one for each core.")


def _layers(name: str, found: int, published: int) -> str:
    return f"{name} {found} layers" if found == published else f"{name} {found} of {published} layers"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _rows(settings: Settings, variants: dict[str, Any]) -> list[tuple[str, Callable[[dict[str, Any]], str]]]:
    """Labels, each with the function that writes its value for a variant."""
    ours = variants["ours"].get("loss")

    def show(key: str, form: str | None = None, scale: float = 1.0) -> Callable[[dict[str, Any]], str]:
        def shown(found: dict[str, Any]) -> str:
            if key not in found:
                return "-"
            return format_number(found[key] * scale) if form is None else format(found[key] * scale, form)

        return shown

    def seconds(found: dict[str, Any]) -> str:
        return found.get("error") or format_number(found["seconds"])

    def difference(found: dict[str, Any]) -> str:
        return f"{found['loss'] - ours:+.1e}" if ours is not None and "loss" in found else "-"

    rows = [
        ("seconds a step", seconds),
        ("audio hours an hour", show("audio_hours_per_hour")),
        ("peak memory beyond the weights, GiB", show("peak_bytes", ".2f", 2**-30)),
        ("TFLOP a step, padding included", show("flops", scale=1e-12)),
        ("of the matrix rate", show("utilization", ".0%")),
        (f"{settings.run_steps:,} steps, hours", show("run_hours")),
    ]
    if "usual" in variants:
        rows.insert(1, ("times as fast as usual", show("times_as_fast_as_usual", ".2f")))
    if settings.price is not None:
        rows.append((f"at {settings.price:g} USD an hour, USD", show("run_usd", ",.2f")))
    rows.append(("loss of the first batch", show("loss", ".6f")))
    if len(variants) > 1:
        rows.append(("  minus ours", difference))
    return rows
