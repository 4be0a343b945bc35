"""`ta eval`: a row for each checkpoint on standard output, all else on standard error."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..config import Config, build_config, check_device
from ..errors import UserError
from .compose import compose, register, to_overrides
from .infer import check_checkpoint
from .options import Parser
from .output import check_output, data_files, refuse_inputs, write_output

FORMATS = (".json", ".jsonl", ".csv", ".md")
# What a data preset chooses; lengths and text form stay those that the checkpoint was trained with.
CORPORA = ("name", "train_path", "eval_path", "datasets", "eval_datasets")
READ = re.compile(
    r"data|data\.\w+|hardware\.\w+|paths\.(cache|data)_dir|training\.(max_new_tokens|eval_batch_size|seed)"
)
EPILOG = """\
examples:
  ta eval --checkpoints-dir outputs/transcription
  ta eval checkpoint=outputs/transcription/checkpoints/final.pt data.max_eval_samples=null
  ta eval checkpoint=a.pt checkpoint=b.pt data.eval_path=my/dev.jsonl transcripts=wrote.jsonl
  ta eval --checkpoints-dir outputs/mosa data=librispeech output=mosa.csv
  ta eval checkpoint=a.pt 'data.eval_datasets=[{path: noisy.jsonl}, {path: clean.jsonl}]'

Without data the clips are those that the run itself was evaluated on. Any setting of `ta train` that says what is
evaluated may be typed: data=NAME, data.*, hardware.*, training.max_new_tokens, paths.*_dir. Options may be written
with dashes too: --checkpoint PATH."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read options in both spellings, and settings among them."""
    parser = Parser(
        "ta eval",
        "ta eval --checkpoints-dir DIR | checkpoint=PATH [data=NAME] [KEY=VALUE ...] [output=FILE] ...",
        "Transcribe evaluation sets with checkpoints; print error rates with 95 % intervals, and mark the best.",
        EPILOG,
    )
    add = parser.add_argument
    add("settings", nargs="*", metavar="KEY=VALUE", help="data and device: see below")
    add("--checkpoints-dir", metavar="DIR", help="a run, or its folder of checkpoints: all of them")
    add("--checkpoint", action="append", default=[], metavar="PATH", help="one checkpoint; may be repeated")
    add("--device", help="auto, cuda, cuda:1, mps, cpu (default: auto)")
    add("--batch-size", metavar="N", help="clips at once (default: training.eval_batch_size of the run)")
    add("--encoder", help="where the checkpoints' encoder lies now, if it has moved")
    add("--decoder", help="where the checkpoints' decoder lies now, if it has moved")
    add("--scoring", metavar="RULE[,RULE]", help="whisper, levenshtein, ours (default: whisper,ours for English)")
    add("--output", type=Path, metavar="FILE", help=f"write the rows to a file, too: {', '.join(FORMATS)}")
    add("--transcripts", type=Path, metavar="FILE", help="write what the best checkpoint wrote (.jsonl)")
    add("--config-dir", action="append", default=[], type=Path, metavar="DIR", help="data presets of your own")
    return parser.read(argv)


def run(argv: list[str]) -> int:
    """Run `ta eval` with these arguments and return the exit status.

    Raises:
        UserError: one line for the person who typed them.
    """
    args = parse(argv)
    check(args)
    from ..evaluation.scoring import parse_rules
    from ..training.checkpoint import find_checkpoints
    from ..training.ranking import goes_by

    rules = None if args.scoring is None else parse_rules(args.scoring)
    folder = find_checkpoints(args.checkpoints_dir) if args.checkpoints_dir else None
    paths = folder.files() if folder else map(Path, args.checkpoint)
    paths = list(paths)
    outputs = {key: path for key in ("output", "transcripts") if (path := getattr(args, key)) is not None}
    for key, path in outputs.items():  # hours later would be too late to find out
        check_output(path, paths, text=True, key=key)
    if len(outputs) == 2 and args.output.resolve() == args.transcripts.resolve():
        raise UserError(f"output= and transcripts= are one file, {args.output}; name two.")
    from rich.console import Console

    from ..evaluation.report import print_tables, to_text
    from ..evaluation.score import rank, transcript_rows
    from ..inference.checkpoints import evaluate_checkpoints

    typed = to_settings(args)

    def settings(saved: dict[str, Any]) -> Config:
        config = with_typed(saved, typed, args.config_dir)
        for key, path in outputs.items():
            refuse_inputs(path, data_files(config.data), key)
        return config

    results, sets = evaluate_checkpoints(paths, settings, args.encoder, args.decoder, rules)
    by = (goes_by(folder) if folder else None) or asdict(sets.config.training)
    metric = by["metric_for_best"]
    ranked = rank(results, metric, by["greater_is_better"])
    # Where nobody looks at the width of a terminal, no row is broken.
    print_tables(Console(width=None if sys.stdout.isatty() else 200), results, ranked, metric)
    if args.output is not None:
        write_output(args.output, to_text(args.output.suffix, results, ranked).encode())
    if args.transcripts is not None:
        rows = transcript_rows((ranked or results)[0])
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_output(args.transcripts, lines.encode("utf-8", "backslashreplace"), key="transcripts")
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is imported."""
    if bool(args.checkpoints_dir) == bool(args.checkpoint):
        raise UserError("name checkpoints: ta eval --checkpoints-dir outputs/transcription, or checkpoint=PATH")
    for path in args.checkpoint:
        check_checkpoint(path)
    if args.output is not None and args.output.suffix not in FORMATS:
        raise UserError(f"output={args.output} must end in one of {', '.join(FORMATS)}.")
    if args.device is not None:
        check_device("device", args.device)
    for token in args.settings:
        key, equals, _ = token.partition("=")
        if not equals:
            raise UserError(f"{token} is not a setting; settings are written KEY=VALUE.")
        if not READ.fullmatch(key):
            raise UserError(f"ta eval does not read {key}; `ta eval --help` says which settings it does.")


def to_settings(args: argparse.Namespace) -> list[str]:
    """Return the settings that were typed, options that are short for one among them."""
    typed = list(args.settings)
    if args.device is not None:
        typed.append(f"hardware.device={args.device}")
    if args.batch_size is not None:
        typed.append(f"training.eval_batch_size={args.batch_size}")
    own = any(token.startswith("data.eval_path=") for token in typed)
    if own and not any(token.startswith("data=") for token in typed):
        typed.insert(0, "data=custom")
    return typed


def with_typed(saved: dict[str, Any], typed: Sequence[str], own: Sequence[Path] = ()) -> Config:
    """Return the configuration of a checkpoint's run with what was typed put over it.

    Args:
        saved: the run's configuration, as the checkpoint holds it. Its device is not asked for: the checkpoint may come
            from another machine.
        typed: settings as `ta train` takes them.
        own: folders with data presets of one's own.

    Raises:
        ConfigError: a setting that does not exist, or a value that is wrong.
    """
    values = deepcopy(saved)
    values["hardware"]["device"] = "auto"
    if typed:
        register(own)
        # A preset may ask for training data (data=custom does): there is none here.
        composed = compose(to_overrides([*typed, "data.datasets=[]"], own))[0].to_dict()
        for key in (token.partition("=")[0] for token in typed):
            group, _, name = key.partition(".")
            names = CORPORA if group == "data" and name in ("", *CORPORA) else (name,)
            values[group].update({name: composed[group][name] for name in names})
    return build_config(values)
