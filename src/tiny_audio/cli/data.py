"""`ta data`: check the data before a run. It takes the settings of `ta train`, and trains nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ..config import Config, DatasetConfig
from ..config_errors import did_you_mean
from ..errors import UserError
from .compose import compose, own_folders, register, to_overrides
from .console import open_console
from .options import Parser
from .output import check_output, data_files, write_output

OUTPUTS = (".html", ".png", ".svg", ".json")
HELP = """\
usage: ta data COMMAND ...

Check the data before a long run. The settings are those of `ta train`.

commands:
  check    facts about the data, and its problems: ta data check experiment=transcription
  preview  the input of the model, clip by clip: ta data preview experiment=quickstart output=preview

`ta data COMMAND --help` says more."""
CORPORA_EPILOG = """
PATH is short for data.datasets=[{path: PATH}]. split=NAME selects the rows or files of that split, and eval_split=NAME
those to evaluate on. Without PATH the command reads the data that `ta train` would use with the same settings, such as
experiment=, data=, data.*, training.* and model.decoder."""
CHECK_EPILOG = (
    """\
examples:
  ta data check experiment=transcription
  ta data check data=custom data.train_path=a.jsonl data.eval_path=b.jsonl output=report.html
  ta data check data=librispeech data.max_samples=100
  ta data check my/manifest.jsonl split=train eval_split=dev
  ta data check my/folder --decode all output=report.html output=report.json

exit status: 0; 1 with severe findings (marked !!), with which training would stop or teach nonsense;
2 if nothing could be checked.
"""
    + CORPORA_EPILOG
)
PREVIEW_EPILOG = (
    """\
examples:
  ta data preview experiment=quickstart
  ta data preview experiment=transcription model.decoder=pocket --clips 20
  ta data preview my/manifest.jsonl output=preview      wav files, and a page with players: preview/index.html

The clips are the first that a run would draw. Only the decoder's tokenizer is loaded; model.decoder=pocket needs no
download.
"""
    + CORPORA_EPILOG
)


def run(argv: list[str]) -> int:
    """Run `ta data` with these arguments and return the exit status.

    Raises:
        UserError: one line for the person who typed them.
    """
    commands: dict[str, Callable[[list[str]], int]] = {"check": run_check, "preview": run_preview}
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    name = argv[0]
    if name not in commands:
        hint = did_you_mean(name, commands) or " There are check and preview."
        raise UserError(f"there is no command ta data {name}.{hint} `ta data --help` lists them.")
    return commands[name](argv[1:])


def add_corpora(parser: Parser) -> None:
    """Add the options that choose the data."""
    add = parser.add_argument
    add("settings", nargs="*", metavar="PATH | KEY=VALUE", help="a manifest, folder or Hub id; or settings")
    add("--split", metavar="NAME", help="of PATH")
    add("--eval-split", metavar="NAME", help="of PATH, for the evaluation")
    add("--config-dir", action="append", default=[], type=Path, metavar="DIR", help="a folder with your own presets")


def parse_check(argv: list[str]) -> argparse.Namespace:
    """Read the arguments of `ta data check`."""
    parser = Parser(
        "ta data check",
        "ta data check [PATH ...] [KEY=VALUE ...] [options] [output=FILE]",
        "Check the training and evaluation data of a run, and report its problems.",
        CHECK_EPILOG,
    )
    add_corpora(parser)
    add = parser.add_argument
    add("--decode", type=_count, default=200, metavar="N", help="clips of each corpus to decode, or all (default: 200)")
    add("--headers", type=_count, default=1000, metavar="N", help="headers to read, or all (default: 1000)")
    add("--output", action="append", default=[], type=Path, metavar="FILE", help=f"a {', '.join(OUTPUTS)} file, too")
    args = parser.read(argv)
    for path in args.output:
        if path.suffix not in OUTPUTS:
            raise UserError(f"output must end in {', '.join(OUTPUTS)}, got {path}.")
    return args


def run_check(argv: list[str]) -> int:
    """Run `ta data check`."""
    args = parse_check(argv)
    config = configure(args)
    for path in args.output:
        check_output(path, data_files(config.data))
    from ..inspection.check import check
    from ..inspection.report import print_report, to_json

    report = check(config, args.headers, args.decode)
    print_report(open_console(80), report)
    for path in args.output:
        if path.suffix == ".json":
            write_output(path, to_json(report).encode())
        else:
            from ..inspection.figure import render_report  # matplotlib

            write_output(path, render_report(report, path.suffix))
    return int(report.severe)


def parse_preview(argv: list[str]) -> argparse.Namespace:
    """Read the arguments of `ta data preview`."""
    parser = Parser(
        "ta data preview",
        "ta data preview [PATH ...] [KEY=VALUE ...] [--clips N] [output=DIR]",
        "Show the first clips as a run would draw them: sound, lengths, tokens, and which of them are taught.",
        PREVIEW_EPILOG,
    )
    add_corpora(parser)
    add = parser.add_argument
    add("--clips", type=_positive, default=8, metavar="N", help="how many (default: 8)")
    add("--output", type=Path, metavar="DIR", help="write wav files, clips.jsonl and index.html into this folder")
    return parser.read(argv)


def run_preview(argv: list[str]) -> int:
    """Run `ta data preview`."""
    args = parse_preview(argv)
    config = configure(args)
    if args.output is not None:
        make_folder(args.output)
    from ..inspection.preview import preview
    from ..inspection.preview_report import print_preview, write_preview

    clips = preview(config, args.clips)
    print_preview(open_console(80), clips)
    if args.output is not None:
        print(f"Page: {write_preview(clips, args.output)}")
    return 0


def configure(args: argparse.Namespace) -> Config:
    """Return the typed settings; if there are paths, they replace the corpora.

    Raises:
        UserError: a setting or a path is wrong.
    """
    paths = [token for token in args.settings if "=" not in token]
    typed = [token for token in args.settings if "=" in token]
    own = own_folders(args.config_dir)
    if not paths and (args.split or args.eval_split):
        raise UserError("split= needs a path: ta data check my/manifest.jsonl split=train")
    if paths:  # a preset may require its own paths (data=custom does)
        typed += ["data.datasets=[]", "data.eval_datasets=[]"]
    register(own)
    config, _ = compose(to_overrides(typed, own))
    if paths:
        config.data.datasets = [_entry(path, args.split) for path in paths]
        config.data.eval_datasets = [_entry(path, args.eval_split) for path in paths if args.eval_split]
    return config


def _entry(path: str, split: str | None) -> DatasetConfig:
    if path == "pocket":
        return DatasetConfig(name="pocket", split=split)
    return DatasetConfig(path=path, split=split)


def _count(value: str) -> int | None:
    if value == "all":
        return None
    if value.isdecimal():
        return int(value)
    raise argparse.ArgumentTypeError(f"must be a number or all, got {value}")


def _positive(value: str) -> int:
    if value.isdecimal() and int(value) > 0:
        return int(value)
    raise argparse.ArgumentTypeError(f"must be a number of at least 1, got {value}")


def make_folder(folder: Path) -> None:
    """Make a folder for results, or use an earlier one of results; other files would be mixed up with them.

    Raises:
        UserError: it cannot be made, or holds something else.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "clips.jsonl").is_file():
            raise UserError(f"output={folder} holds other files; name a new folder.")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder}: cannot be made ({error.strerror}).") from None
