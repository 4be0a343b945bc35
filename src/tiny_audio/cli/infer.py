"""`ta infer checkpoint=PATH audio=FILE`: transcripts on standard output, failures on standard error."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..config import check_device
from ..config_errors import did_you_mean
from ..errors import UserError

if TYPE_CHECKING:
    from ..inference.transcribe import Transcription

OPTIONS = ("checkpoint", "audio", "device", "batch_size", "encoder", "decoder", "format", "output", "channel")
MAX_TOLD = 5  # files that are named one by one
EPILOG = """\
examples:
  ta infer checkpoint=outputs/transcription/checkpoints/final.pt audio=test.wav
  ta infer checkpoint=final.pt audio=a.wav,b.flac
  ta infer checkpoint=final.pt recordings/ *.mp3 format=json output=transcripts.jsonl
  ta infer checkpoint=final.pt call.wav channel=each    (a party a channel; call.wav@1 is its second channel)

One recording: its transcript. Several, or a folder: a line each, PATH<tab>TRANSCRIPT. Options may be written
with dashes too: --checkpoint PATH. The exit status is 1 where a recording could not be transcribed."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `ta infer --help` says more.")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read options in both spellings, `key=value` and `--key value`, and recordings among them."""
    parser = _Parser(
        prog="ta infer",
        usage="ta infer checkpoint=PATH audio=FILE[,FILE ...] [FILE ...] [device=...] [batch_size=N] ...",
        description="Transcribe recordings (wav, flac, mp3, ogg, opus, m4a, mp4, webm, wma, ...) with a checkpoint.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="recordings and folders of recordings")
    parser.add_argument("--checkpoint", help="checkpoint of a run: outputs/.../checkpoints/final.pt")
    parser.add_argument("--audio", action="append", default=[], help="recordings or folders, with commas between")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps, cpu (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="recordings at once (default: %(default)s)")
    parser.add_argument("--encoder", help="where the checkpoint's encoder lies now, if it has moved")
    parser.add_argument("--decoder", help="where the checkpoint's decoder lies now, if it has moved")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="json: an object a line")
    parser.add_argument("--output", type=Path, help="write to this file instead of standard output")
    parser.add_argument(
        "--channel",
        default="mix",
        help="mix: all channels in one; each: every channel for itself; or a number, 0 being the first "
        "(default: %(default)s)",
    )
    option = re.compile(r"(?:--)?(checkpoint|audio|device|batch[_-]size|encoder|decoder|format|output|channel)=")
    return parser.parse_intermixed_args([option.sub(_dashed, token) for token in argv])


def _dashed(option: re.Match[str]) -> str:
    # Only at the start: a path may hold `audio=` further on.
    return f"--{option[1].replace('_', '-')}=" if option.start() == 0 else option[0]


def run(argv: list[str]) -> int:
    """Run `ta infer` with these arguments and return the exit status: 1 if a recording failed.

    Raises:
        UserError: one line for the person who typed them.
    """
    args = parse(argv)
    if not args.checkpoint:
        raise UserError("name a checkpoint: ta infer checkpoint=outputs/.../final.pt audio=test.wav")
    named = [path for group in args.audio for path in split_paths(group)] + args.files
    if not named:
        raise UserError(f"name a recording: ta infer checkpoint={args.checkpoint} audio=test.wav")
    if args.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {args.batch_size}.")
    check_device("device", args.device)
    check_checkpoint(args.checkpoint)
    paths = choose_channels(expand(named), args.channel)
    from ..inference.transcribe import transcribe_files

    transcriptions = transcribe_files(
        args.checkpoint, paths, args.device, args.batch_size, encoder=args.encoder, decoder=args.decoder
    )
    return write(transcriptions, args.format, args.output, alone=paths == named and len(paths) == 1)


def check_checkpoint(path: str) -> None:
    """Refuse the path of a checkpoint that is not there, naming those beside it."""
    if Path(path).suffix != ".pt" or Path(path).is_file():
        return
    beside = sorted(file.name for file in Path(path).parent.glob("*.pt"))
    hint = f" Beside it: {', '.join(beside)}." if beside else ""
    raise UserError(f"there is no checkpoint {path}.{hint}")


def split_paths(value: str) -> list[str]:
    """Split `a.wav,b.wav`; a comma in the name of a file that exists stays."""
    return [value] if Path(value).exists() else [path for path in value.split(",") if path]


def expand(named: Sequence[str]) -> list[str]:
    """Replace every folder by the recordings below it, in the order of their paths.

    Raises:
        UserError: a file that is not there, a folder without recordings.
    """
    for path in named:
        option, is_option, _ = path.partition("=")
        if is_option and option.isidentifier() and not Path(path).exists():
            raise UserError(
                f"there is no option {option}.{did_you_mean(option, OPTIONS)} `ta infer --help` lists them."
            )
    from ..decoding import split_channel

    if missing := [path for path in named if not Path(split_channel(path)[0]).exists()]:
        raise UserError(f"there is no file {', '.join(missing)}.")
    paths: list[str] = []
    for path in named:
        if Path(path).is_dir():
            found, others = look_through(path)
            if not found:
                raise UserError(f"there are no recordings (wav, flac, mp3, m4a, ...) in the folder {path}.")
            tell_passed_over(path, others)
            paths += found
        else:
            paths.append(path)
    return paths


def look_through(folder: str) -> tuple[list[str], list[str]]:
    """Return the recordings below a folder, by their names, and what else is there: files, and folders not entered."""
    from ..decoding import AUDIO_SUFFIXES

    files: list[Path] = []
    others: list[str] = []  # folders that cannot be read, and links to others, which may lead round in a circle

    def note(error: OSError) -> None:
        others.append(str(error.filename))

    for place, folders, names in os.walk(folder, onerror=note):
        others += [str(path) for name in folders if (path := Path(place, name)).is_symlink()]
        files += [Path(place, name) for name in names]
    found, litter = [], "._"  # in which macOS keeps what it knows of a file
    for file in sorted(files):
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(litter):
            found.append(str(file))
        else:
            others.append(str(file))
    return found, others


def tell_passed_over(folder: str, paths: Sequence[str]) -> None:
    """Name and count what a folder holds that is not looked at."""
    if paths:
        named = ", ".join(paths[:MAX_TOLD]) + (", ..." if len(paths) > MAX_TOLD else "")
        count = f"{len(paths):,} file{'s' if len(paths) > 1 else ''}"
        print(f"ta infer: {folder}: {count} not looked at, by name no recordings: {named}", file=sys.stderr)


def choose_channels(paths: Sequence[str], channel: str) -> list[str]:
    """Name the channels that are asked for, as in `call.wav@0`, of those paths that do not name one themselves.

    Raises:
        UserError: `channel` is neither mix, each, nor a number.
    """
    if channel == "mix":
        return list(paths)
    if channel != "each" and not channel.isdecimal():
        raise UserError(f"channel must be mix, each, or a number, 0 being the first, got {channel!r}.")
    from ..decoding import count_channels, split_channel

    chosen: list[str] = []
    for path in paths:
        if split_channel(path)[1] is not None:
            chosen.append(path)
        else:
            numbers = range(count_channels(path)) if channel == "each" else [int(channel)]
            chosen += [f"{path}@{number}" for number in numbers] or [path]
    return chosen


def write(transcriptions: Iterable[Transcription], form: str, output: Path | None, alone: bool) -> int:
    """Write each transcript as it comes, and return 1 if one failed, else 0."""
    failed = False
    try:
        target = output.open("w", encoding="utf-8") if output else nullcontext(sys.stdout)
    except OSError as error:
        raise UserError(f"output: cannot write {output}: {error.strerror}.") from None
    with target as out:
        for item in transcriptions:
            if item.error is not None:
                failed = True
                print(f"ta infer: error: {item.path}: {item.error}", file=sys.stderr)
            text = " ".join((item.text or "").split())
            if form == "json":
                row = {"path": item.path, "text": text, "seconds": item.seconds, "error": item.error}
                print(json.dumps(row, ensure_ascii=False), file=out, flush=True)
            elif item.error is None:
                print(text if alone else f"{item.path}\t{text}", file=out, flush=True)
    return int(failed)
