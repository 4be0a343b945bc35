"""`ta clean-checkpoints`: free disk space. It prints what it keeps and deletes to standard output."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..errors import UserError
from .options import Parser

if TYPE_CHECKING:
    from ..training.checkpoint import CheckpointFolder
    from ..training.ranking import CleaningPlan

EPILOG = """\
examples:
  ta clean-checkpoints --keep-best 3 --keep-last 2 --output-dir outputs/transcription/
  ta clean-checkpoints --dry-run --output-dir outputs/mosa outputs/moe

The run's own evaluations and its training.metric_for_best decide which are the best. The best one and the newest are
never deleted. Other files than checkpoint-step-N.pt, such as final.pt, are not deleted either."""


def parser() -> Parser:
    """Return the command's options."""
    made = Parser(
        "ta clean-checkpoints",
        "ta clean-checkpoints --output-dir DIR [DIR ...] [--keep-best N] [--keep-last N] [--dry-run]",
        "Delete the checkpoints of a run but the best and the newest.",
        EPILOG,
    )
    made.add_argument(
        "--output-dir", nargs="+", action="extend", default=[], metavar="DIR", help="runs, or folders of checkpoints"
    )
    made.add_argument("--keep-best", type=int, default=3, metavar="N", help="(default: %(default)s)")
    made.add_argument("--keep-last", type=int, default=2, metavar="N", help="(default: %(default)s)")
    made.add_argument("--dry-run", action="store_true", help="say what would be deleted, delete nothing")
    return made


def run(argv: list[str]) -> int:
    """Run `ta clean-checkpoints` with these arguments and return the exit status.

    Raises:
        UserError: one line for the person who typed them; then none of the folders is changed.
    """
    args = parser().read(argv)
    if not args.output_dir:
        raise UserError("name a run: ta clean-checkpoints --output-dir outputs/transcription/")
    for option in ("keep_best", "keep_last"):
        if getattr(args, option) < 0:
            raise UserError(f"--{option.replace('_', '-')} must be at least 0, got {getattr(args, option)}.")
    from ..training.checkpoint import find_checkpoints
    from ..training.ranking import clean, hold, plan_cleaning

    folders = [find_checkpoints(path) for path in args.output_dir]
    with ExitStack() as held:
        if not args.dry_run:
            for folder in folders:
                held.enter_context(hold(folder))
        plans = [plan_cleaning(folder, args.keep_best, args.keep_last) for folder in folders]
        for folder, plan in zip(folders, plans, strict=True):
            if not args.dry_run:
                clean(folder, plan)
            print("\n".join(describe(folder, plan, args.dry_run)))
    return 0


def describe(folder: CheckpointFolder, plan: CleaningPlan, dry_run: bool) -> Sequence[str]:
    """Return a line for each checkpoint, and a line about the disk space that is freed."""
    metric, values = plan.ranking.metric, plan.ranking.values
    lines = [f"{folder.path}:"]
    steps = sorted([*plan.kept, *plan.deleted])
    width = max(len(folder.file(step).name) for step in steps)
    verb = "would delete" if dry_run else "deleted"
    for step in steps:
        value = f"{metric} {values[step]:.3f}" if metric == "loss" and step in values else ""
        value = value or (f"{metric} {values[step]:.1%}" if step in values else "not evaluated")
        fate = f"kept: {plan.kept[step]}" if step in plan.kept else verb
        lines.append(f"  {folder.file(step).name:<{width}}  {value:<13}  {fate}")
    freed = f"{plan.freed_bytes:,} bytes ({plan.freed_bytes / 1e6:,.1f} MB)"
    count = f"{len(plan.deleted)} of {len(steps)} checkpoints"
    if dry_run:
        return [*lines, f"{count} would be deleted, which would free {freed}. Nothing was deleted."]
    return [*lines, f"{count} deleted, {freed} freed."]
