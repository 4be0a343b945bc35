"""`ta benchmark`: print tables to standard output. torch is imported only when something is measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ..benchmark.settings import Settings
from ..config import ATTENTIONS, PROJECTORS
from .options import Parser
from .output import check_output, write_output

DEFAULTS = Settings()
DESCRIPTION = """\
Measure a training step on this machine, the usual way and ours, and where ours spends its time.

Encoder and decoder have the widths of GLM-ASR and Qwen3-0.6B and random weights, so nothing is downloaded. On a GPU
they are whole, with 16 clips per step; on a CPU four layers of each, with 8 clips, which takes some minutes."""
EPILOG = """\
examples:
  ta benchmark
  ta benchmark --seconds 30                          the largest possible batch: does it fit?
  ta benchmark --batch-size 32 --compile --price 2.5
  ta benchmark --projector mlp,mosa,moe,qformer --no-baseline
  ta benchmark --data my/train.jsonl                 can the data keep up with the step?
  ta benchmark --data my/train.jsonl --no-step --workers 1,2,4,8,16"""


def parse(argv: Sequence[str]) -> tuple[Settings, Path | None]:
    """Read the options; return what to measure, and the file for the figures."""
    parser = Parser("ta benchmark", "ta benchmark [options]", DESCRIPTION, EPILOG)
    add = parser.add_argument_group("the machine").add_argument
    add("--device", default=DEFAULTS.device, help="auto, cuda, cuda:1, mps, cpu (default: %(default)s)")
    add("--precision", default=DEFAULTS.precision, help="bf16, no or auto: bf16 if a GPU has it (default: auto)")
    add("--attention", default=DEFAULTS.attention, help=f"{', '.join(ATTENTIONS)} (default: %(default)s)")
    add("--compile", action="store_true", help="compile the layers of our step")
    add = parser.add_argument_group("the step").add_argument
    add("--batch-size", type=int, metavar="N", help="clips per step (default: 16; 8 on a CPU)")
    add(
        "--seconds",
        type=float,
        default=DEFAULTS.seconds,
        metavar="S",
        help="mean length of a clip; the lengths spread by 70 %% to both sides, to at most 30 s (default: %(default)g)",
    )
    add("--projector", type=_names, default=DEFAULTS.projectors, metavar="NAMES",
        help=f"one or several of {','.join(PROJECTORS)} (default: mlp)")  # fmt: skip
    add("--encoder-layers", type=int, metavar="N", help="(default: 32; 4 on a CPU)")
    add("--decoder-layers", type=int, metavar="N", help="(default: 28; 4 on a CPU)")
    add("--steps", type=int, metavar="N", help="timed steps of each variant (default: 20; 2 on a CPU)")
    add("--no-baseline", action="store_true", help="ours alone")
    add("--no-step", action="store_true", help="the data alone")
    add = parser.add_argument_group("the run").add_argument
    add("--run-steps", type=int, default=DEFAULTS.run_steps, metavar="N",
        help="steps whose hours and cost are printed (default: %(default)s)")  # fmt: skip
    add("--price", type=float, metavar="USD", help="of an hour of this machine")
    add = parser.add_argument_group("the data").add_argument
    add("--data", metavar="PATH", help="a manifest, a folder or `pocket`: measure how fast it is read")
    add("--workers", type=_numbers, default=DEFAULTS.workers, metavar="N,N",
        help="numbers of worker processes (default: 0,1,2,4)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file, too")
    args = vars(parser.read(argv))
    path = args.pop("json")
    settings = Settings(
        projectors=args.pop("projector"), baseline=not args.pop("no_baseline"), step=not args.pop("no_step"), **args
    )
    return settings, path


def _numbers(value: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers separated by commas, got {value}") from None


def _names(value: str) -> tuple[str, ...]:
    return tuple(part for part in value.split(",") if part)


def run(argv: list[str]) -> int:
    """Run `ta benchmark` with these arguments and return the exit status.

    Raises:
        UserError: one line for the person who typed them.
    """
    settings, path = parse(argv)
    if path is not None:
        check_output(path, text=True, key="--json")
    from rich.console import Console

    from ..benchmark.report import Report
    from ..benchmark.run import benchmark

    figures = benchmark(settings, Report(Console()))
    if path is not None:
        write_output(path, (json.dumps(figures, indent=2) + "\n").encode(), key="--json")
    return 0
