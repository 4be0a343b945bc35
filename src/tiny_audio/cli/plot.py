"""`ta plot`: the curves of runs in one picture or page."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .options import Parser

SUFFIXES = (".png", ".svg", ".html")
EPILOG = """\
examples:
  ta plot outputs/transcription                     writes outputs/transcription/curves.png
  ta plot outputs/transcription outputs/mosa        several runs, one color each: curves.png here
  ta plot outputs/* output=curves.html              one page, with figures and settings; opens without a network

Training and evaluation loss, error rates, learning rate, gradient norm, speed, and metrics of your own."""


def run(argv: list[str]) -> int:
    """Run `ta plot` with these arguments and return the exit status.

    Raises:
        UserError: one line for the person who typed them.
    """
    parser = Parser(
        "ta plot",
        "ta plot RUN_FOLDER [RUN_FOLDER ...] [output=FILE]",
        "Draw the curves of one or several runs, from their metrics.jsonl.",
        EPILOG,
    )
    parser.add_argument("folders", nargs="*", metavar="RUN_FOLDER", help="what a run writes to: outputs/transcription")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a .png, .svg or .html file")
    args = parser.read(argv)
    if not args.folders:
        raise UserError("name a run: ta plot outputs/transcription")
    if args.output is not None and args.output.suffix not in SUFFIXES:
        raise UserError(f"output must end in {', '.join(SUFFIXES)}, got {args.output}.")
    from ..plot.runs import read_runs

    runs = read_runs(args.folders)
    output = args.output or (Path(args.folders[0]) if len(runs) == 1 else Path()) / "curves.png"
    from ..plot.write import write  # matplotlib

    write(runs, output)
    print(f"Curves of {'1 run' if len(runs) == 1 else f'{len(runs)} runs'}: {output}")
    return 0
