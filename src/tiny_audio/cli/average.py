"""`ta average`: one checkpoint from the best of a run."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .options import Parser
from .output import check_output

EPILOG = """\
examples:
  ta average --checkpoints-dir outputs/transcription --best 3
  ta eval --checkpoints-dir outputs/transcription       compare it: it is a row of the table

You can transcribe with the result, evaluate it, and start other runs from it (model.checkpoint=FILE), as with any
checkpoint. Only the run itself cannot resume from it, since it holds no optimizer state."""


def run(argv: list[str]) -> int:
    """Run `ta average` with these arguments and return the exit status.

    Raises:
        UserError: one line for the person who typed them.
    """
    parser = Parser(
        "ta average",
        "ta average --checkpoints-dir DIR [--best N] [--output FILE]",
        "Write the mean of the weights of a run's best checkpoints, by its own evaluations.",
        EPILOG,
    )
    parser.add_argument("--checkpoints-dir", metavar="DIR", help="a run, or its folder of checkpoints")
    parser.add_argument("--best", type=int, default=3, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: DIR/averaged-best-N.pt)")
    args = parser.read(argv)
    if not args.checkpoints_dir:
        raise UserError("name a run: ta average --checkpoints-dir outputs/transcription")
    if args.best < 2:
        raise UserError(f"--best must be at least 2, got {args.best}.")
    from ..training.checkpoint import find_checkpoints
    from ..training.ranking import average

    folder = find_checkpoints(args.checkpoints_dir)
    if args.output is not None:
        check_output(args.output, folder.files())
    path, steps = average(folder, args.best, args.output)
    print(f"Mean of {', '.join(folder.file(step).name for step in steps)}: {path}")
    return 0
