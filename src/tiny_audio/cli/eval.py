"""`ta eval`: print a row for each checkpoint to standard output, and everything else to standard error."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, build_config, check_device
from ..errors import UserError
from .compose import compose, own_folders, register, to_overrides
from .console import open_console
from .infer import check_checkpoint
from .options import Parser, add_search, check_search, search_of
from .output import check_output, data_files, refuse_inputs, write_output

if TYPE_CHECKING:
    from ..evaluation.score import Result
    from ..evaluation.scoring import Rule
    from ..inference.sets import Sets

WIDTH = 200  # columns of a file, so that no row is broken
FORMATS = (".json", ".jsonl", ".csv", ".md")
# The settings that a data preset chooses; lengths and text form stay as in the checkpoint's training.
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
  ta eval checkpoint=final.pt data=leaderboard report=judged
  ta eval --compare final.pt openai/whisper-base data=librispeech report=judged
  ta eval --compare judged/predictions.jsonl theirs.jsonl

--compare takes checkpoints, folders with a model, models of the Hub that transformers can run as speech recognizers
(Whisper, wav2vec2, GLM-ASR, ...), and prediction files, one line per clip: name, reference, hypothesis.

Without data the clips are those of the run's own evaluation. The settings of `ta train` that concern an evaluation can
be set: data=NAME, data.*, hardware.*, training.max_new_tokens, paths.*_dir. Options may be written
with dashes too: --checkpoint PATH."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read options in both spellings, and settings among them."""
    parser = Parser(
        "ta eval",
        "ta eval --checkpoints-dir DIR | checkpoint=PATH | --compare A B [data=NAME] [KEY=VALUE ...] [output=FILE] ...",
        "Transcribe evaluation sets with checkpoints; print error rates with 95 % intervals, and mark the best. Or "
        "compare two recognizers on the same clips.",
        EPILOG,
    )
    add = parser.add_argument
    add("settings", nargs="*", metavar="KEY=VALUE", help="data and device: see below")
    add("--checkpoints-dir", metavar="DIR", help="a run, or its folder of checkpoints: all of them")
    add("--checkpoint", action="append", default=[], metavar="PATH", help="one checkpoint; may be repeated")
    add("--compare", nargs=2, metavar=("A", "B"), help="two recognizers on the same clips: see below")
    add("--device", help="auto, cuda, cuda:1, mps, cpu (default: auto)")
    add("--batch-size", metavar="N", help="clips at once (default: training.eval_batch_size of the run)")
    add("--encoder", help="the encoder's present folder, if it was moved")
    add("--decoder", help="the decoder's present folder, if it was moved")
    add_search(parser)
    add("--scoring", metavar="RULE[,RULE]", help="whisper, levenshtein, ours (default: whisper,ours for English)")
    add("--output", type=Path, metavar="FILE", help=f"write the rows to a file, too: {', '.join(FORMATS)}")
    add("--transcripts", type=Path, metavar="FILE", help="write the best checkpoint's transcripts (.jsonl)")
    add("--report", type=Path, metavar="FOLDER", help="write eval.json, predictions.jsonl and report.html into it")
    add("--config-dir", action="append", default=[], type=Path, metavar="DIR", help="your own data presets")
    return parser.read(argv)


def run(argv: list[str]) -> int:
    """Run `ta eval` with these arguments and return the exit status.

    Raises:
        UserError: one line for the person who typed them.
    """
    args = parse(argv)
    own = own_folders(args.config_dir)
    check(args)
    from ..evaluation.scoring import parse_rules

    rules = None if args.scoring is None else parse_rules(args.scoring)
    outputs = {key: path for key in ("output", "transcripts", "report") if (path := getattr(args, key)) is not None}
    typed = to_settings(args)

    def settings(saved: dict[str, Any] | None) -> Config:
        if saved is None and not any(token.startswith(("data=", "data.eval_")) for token in typed):
            raise UserError("name the clips: data=leaderboard, or data.eval_path=my/dev.jsonl")
        config = with_typed(saved, typed, own)
        for key, path in outputs.items():
            for file in files_of(key, path):
                refuse_inputs(file, data_files(config.data), key)
        return config

    return (run_compare if args.compare else run_checkpoints)(args, outputs, settings, rules)


def run_checkpoints(
    args: argparse.Namespace,
    outputs: dict[str, Path],
    settings: Callable[[dict[str, Any] | None], Config],
    rules: tuple[Rule, ...] | None,
) -> int:
    """Evaluate checkpoints: see `run`."""
    from ..training.checkpoint import find_checkpoints
    from ..training.ranking import goes_by

    folder = find_checkpoints(args.checkpoints_dir) if args.checkpoints_dir else None
    paths = list(folder.files() if folder else map(Path, args.checkpoint))
    check_outputs(outputs, paths)  # before the work, not hours later
    from ..evaluation.report import print_statements, print_tables, statements
    from ..evaluation.score import rank
    from ..evaluation.scoring import OURS
    from ..inference.checkpoints import evaluate_checkpoints

    results, sets = evaluate_checkpoints(paths, settings, args.encoder, args.decoder, rules, search_of(args))
    by = (goes_by(folder) if folder else None) or asdict(sets.config.training)
    metric = by["metric_for_best"]
    rule = OURS.name if rules is None else rules[0].name  # a run uses ours, so both mark the same one as best
    ranked = rank(results, metric, by["greater_is_better"], rule)
    console = open_console(WIDTH)
    print_tables(console, results, ranked)
    if len(ranked) > 1 and metric != "loss":
        console.print(f"Best by {metric.upper()} ({rule}).", highlight=False, soft_wrap=True)
    print_statements(console, results, ranked, metric)
    best = (ranked or results)[0]
    line = statements(ranked, metric)[0] if len(ranked) > 1 else ""
    write_files(outputs, results, ranked, [best], line, sets)
    return 0


def run_compare(
    args: argparse.Namespace,
    outputs: dict[str, Path],
    settings: Callable[[dict[str, Any] | None], Config],
    rules: tuple[Rule, ...] | None,
) -> int:
    """Compare two recognizers: see `run`."""
    from ..judge.compare import check_recognizer, compare, decide, differing

    for name in args.compare:
        check_recognizer(name)
    check_outputs(outputs, [Path(name) for name in args.compare])
    from ..evaluation.report import print_differing, print_statements, print_tables
    from ..evaluation.score import rank

    results, sets = compare(args.compare, settings, rules, args.encoder, args.decoder, search_of(args))
    line, console = decide(results), open_console(WIDTH)
    print_tables(console, results, rank(results, "wer", False))
    print_differing(console, results, differing(results))
    print_statements(console, results, results, "wer")
    write_files(outputs, results, rank(results, "wer", False), results, line, sets)
    return 0


def files_of(key: str, path: Path) -> list[Path]:
    """Return the files that an option names: `report=` is a folder of several."""
    names = ("eval.json", "predictions.jsonl", "predictions-2.jsonl", "report.html")
    return [path / name for name in names] if key == "report" else [path]


def check_outputs(outputs: dict[str, Path], inputs: Sequence[Path]) -> None:
    """Refuse outputs that cannot be written, or that are also inputs."""
    seen: dict[Path, str] = {}
    for key, path in outputs.items():
        if key == "report" and path.exists() and not path.is_dir():
            raise UserError(f"report={path} is a file; name a folder, which is created if it does not exist.")
        if key == "report":
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"report={path}: cannot be made ({error.strerror}).") from None
        for file in files_of(key, path):
            check_output(file, inputs, text=True, key=key)
            if other := seen.get(file.resolve()):
                raise UserError(f"{other}= and {key}= are one file, {path}; name two.")
            seen[file.resolve()] = key


def write_files(
    outputs: dict[str, Path],
    results: list[Result],
    ranked: list[Result],
    shown: list[Result],
    line: str,
    sets: Sets | None,
) -> None:
    """Write the files that were asked for."""
    from ..evaluation.report import to_text
    from ..evaluation.score import transcript_rows

    if path := outputs.get("output"):
        write_output(path, to_text(path.suffix, results, ranked).encode())
    if path := outputs.get("transcripts"):
        rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in transcript_rows(shown[0]))
        write_output(path, "".join(rows).encode("utf-8", "backslashreplace"), key="transcripts")
    if path := outputs.get("report"):
        from ..judge.folder import write_report

        write_report(path, results, ranked, shown, line, sets)
        print(f"ta eval: the report is {path / 'report.html'}.", file=sys.stderr)


def check(args: argparse.Namespace) -> None:
    """Refuse options that make no sense, before anything is imported."""
    if args.compare and (args.checkpoints_dir or args.checkpoint):
        raise UserError("--compare A B names the two; leave checkpoint= and --checkpoints-dir out.")
    if not args.compare and bool(args.checkpoints_dir) == bool(args.checkpoint):
        raise UserError("name checkpoints: ta eval --checkpoints-dir outputs/transcription, or checkpoint=PATH")
    for path in args.checkpoint:
        check_checkpoint(path)
    check_search(args)
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
    """Return the typed settings, including options that are short for a setting."""
    typed = list(args.settings)
    if args.device is not None:
        typed.append(f"hardware.device={args.device}")
    if args.batch_size is not None:
        typed.append(f"training.eval_batch_size={args.batch_size}")
    own = any(token.startswith("data.eval_path=") for token in typed)
    if own and not any(token.startswith("data=") for token in typed):
        typed.insert(0, "data=custom")
    return typed


def with_typed(saved: dict[str, Any] | None, typed: Sequence[str], own: Sequence[Path] = ()) -> Config:
    """Return the configuration of a checkpoint's run, changed by the typed settings.

    Args:
        saved: the run's configuration, from the checkpoint. Its device and folders are not used, since it may come from
            another machine. None: there is no run, and the defaults are those of `ta train`.
        typed: settings as `ta train` takes them.
        own: folders with the user's own data presets.

    Raises:
        ConfigError: a setting that does not exist, or a value that is wrong.
    """
    if saved is None:
        register(own)
        return compose(to_overrides([*typed, "data.datasets=[]"], own))[0]
    values = deepcopy(saved)
    values["hardware"]["device"], values["paths"] = "auto", Config().to_dict()["paths"]
    if typed:
        register(own)
        # A preset may require training data (data=custom does), and there is none here.
        composed = compose(to_overrides([*typed, "data.datasets=[]"], own))[0].to_dict()
        for key in (token.partition("=")[0] for token in typed):
            group, _, name = key.partition(".")
            names: tuple[str, ...] = CORPORA if group == "data" and name in ("", *CORPORA) else (name,)
            if not name:  # a preset
                names = (*names, "max_eval_samples")
            values[group].update({name: composed[group][name] for name in names})
    return build_config(values)
