"""`ta infer checkpoint=PATH audio=FILE`: transcripts on standard output, failures on standard error."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import check_device
from ..config_errors import did_you_mean
from ..errors import UserError
from ..formats import FORMATS, SUBTITLES, warnings
from ..lengths import MAX_CLIP_SECONDS
from .options import Parser, add_cuda_graph, add_search, check_search
from .output import Output, is_folder, open_output

if TYPE_CHECKING:
    from ..inference.transcription import Transcription

MAX_TOLD = 5  # files that are named one by one
EPILOG = """\
examples:
  ta infer checkpoint=outputs/transcription/checkpoints/final.pt audio=test.wav
  ta infer checkpoint=final.pt audio=a.wav,b.flac
  ta infer checkpoint=final.pt audio=talk.mp3 format=srt word_timestamps=true output=talk.srt
  ta infer checkpoint=final.pt recordings/ *.mp3 format=json output=transcripts.jsonl
  ta infer checkpoint=final.pt recordings/ output=transcripts/
  ta infer checkpoint=final.pt call.wav context="Quilter, Dr. Okonkwo"
  ta infer checkpoint=final.pt call.wav channel=each    (a party a channel; call.wav@1 is its second channel)

One recording: its transcript. Several, or a folder: a line each, PATH<tab>TRANSCRIPT. output=FOLDER/ writes a file
for each recording, and skips recordings whose file exists. Recordings longer than a piece are cut at quiet
places. Options may be written with dashes too: --checkpoint PATH. The exit status is 1 if a recording could not be
transcribed."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read options in both spellings, `key=value` and `--key value`, and recordings among them."""
    parser = Parser(
        "ta infer",
        "ta infer checkpoint=PATH audio=FILE[,FILE ...] [FILE ...] [device=...] [batch_size=N] ...",
        "Transcribe recordings (wav, flac, mp3, ogg, opus, m4a, mp4, webm, wma, ...) with a checkpoint.",
        EPILOG,
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="recordings and folders of recordings")
    add("--checkpoint", help="checkpoint of a run: outputs/.../checkpoints/final.pt")
    add("--audio", action="append", default=[], help="recordings or folders, separated by commas")
    add("--device", default="auto", help="auto, cuda, cuda:1, mps, cpu (default: %(default)s)")
    add("--batch-size", type=int, default=8, help="pieces at once (default: %(default)s)")
    add("--encoder", help="the encoder's present folder, if it was moved")
    add("--decoder", help="the decoder's present folder, if it was moved")
    add("--format", choices=FORMATS, default="text", help="json: one object per line; srt, vtt: subtitles")
    add("--output", help="write to this file, or to files in this folder, instead of standard output")
    add(
        "--context",
        default="",
        help="text about the recordings, such as names, for a model that was trained with contexts",
    )
    add(
        "--channel",
        default="mix",
        help="mix: all channels in one; each: every channel separately; or a number, 0 for the first "
        "(default: %(default)s)",
    )
    add(
        "--piece-seconds",
        type=float,
        help="length of the longest piece (default: the length that 95 of 100 training clips do not exceed; without "
        "a pause, the length of the longest training clip)",
    )
    add("--max-new-tokens", type=int, default=400, help="most tokens of a piece (default: %(default)s)")
    add(
        "--loop-guard",
        choices=["true", "false"],
        default="true",
        help="stop a piece that repeats itself, and try it again in halves (default: %(default)s)",
    )
    add(
        "--silence-seconds",
        type=float,
        default=2.0,
        help="silences from this length on are left out; 0: none (default: %(default)g)",
    )
    add(
        "--word-timestamps",
        choices=["true", "false"],
        default="false",
        help="find where each word was said, for json, srt, vtt; the checkpoint must have a CTC head "
        "(default: %(default)s)",
    )
    add(
        "--vad",
        choices=["auto", "true", "false"],
        default="auto",
        help="cut in pauses that a voice-activity model finds; auto: where tiny-audio[vad] is installed, else at "
        "quiet places (default: %(default)s)",
    )
    add_search(parser)
    add_cuda_graph(parser)
    return parser.read(argv)


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
    check_numbers(args)
    check_device("device", args.device)
    check_checkpoint(args.checkpoint)
    options = [name for name in vars(args) if name != "files"]
    paths = choose_channels(expand(named, options), args.channel)
    alone = paths == named and len(paths) == 1
    if args.format in SUBTITLES and not (alone or is_folder(args.output)):
        raise UserError(f"format={args.format} is a file for each recording: name a folder, output=subtitles/.")
    if args.word_timestamps == "true" and args.format == "text":
        raise UserError("format=text cannot show word_timestamps=true; name format=json, srt or vtt.")
    kept = (args.checkpoint, *filter(None, (args.encoder, args.decoder)))
    with open_output(args.output, args.format, named, paths, kept, alone) as out:
        todo = out.todo(paths)
        if len(todo) < len(paths):
            print(f"ta infer: {len(paths) - len(todo)} of {len(paths)} are done already.", file=sys.stderr)
        return write(transcribe(todo, args), out) if todo else 0


def transcribe(paths: list[str], args: argparse.Namespace) -> Iterator[Transcription]:
    """Load the model, and transcribe."""
    from ..inference.files import transcribe_files
    from ..inference.transcribe import Decoding

    decoding = Decoding(
        args.piece_seconds,
        args.max_new_tokens,
        args.loop_guard == "true",
        args.silence_seconds,
        args.word_timestamps == "true",
        args.beams,
        args.ctc_weight,
        {"auto": None, "true": True, "false": False}[args.vad],
        args.prior_weight,
        args.max_nats,
        args.cuda_graph == "true",
    )
    return transcribe_files(
        args.checkpoint,
        paths,
        args.device,
        args.batch_size,
        encoder=args.encoder,
        decoder=args.decoder,
        decoding=decoding,
        context=args.context,
    )


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that make no sense."""
    for name, low, high in (
        ("batch_size", 1, math.inf),
        ("max_new_tokens", 1, math.inf),
        ("piece_seconds", 1, MAX_CLIP_SECONDS),
        ("silence_seconds", 0, math.inf),
    ):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            limits = f"at least {low}" if high == math.inf else f"{low} to {high}"
            raise UserError(f"{name} must be {limits}, got {value:g}.")
    check_search(args)


def check_checkpoint(path: str) -> None:
    """Refuse the path of a checkpoint that does not exist, and name those beside it."""
    if Path(path).suffix != ".pt" or Path(path).is_file():
        return
    beside = sorted(file.name for file in Path(path).parent.glob("*.pt"))
    hint = f" Beside it: {', '.join(beside)}." if beside else ""
    raise UserError(f"there is no checkpoint {path}.{hint}")


def split_paths(value: str) -> list[str]:
    """Split `a.wav,b.wav`, but not at a comma in the name of a file that exists."""
    if not value.strip():
        raise UserError("audio= is empty; name a recording, or a folder: audio=. is the current one.")
    return [value] if Path(value).exists() else [path for path in value.split(",") if path]


def expand(named: Sequence[str], options: Sequence[str]) -> list[str]:
    """Replace every folder by the recordings below it, in the order of their paths.

    Args:
        named: files and folders, as they were typed.
        options: those of the command; `option=value` with another one is no file.

    Raises:
        UserError: a file does not exist, or a folder has no recordings.
    """
    for path in named:
        option, is_option, _ = path.partition("=")
        if is_option and option.isidentifier() and not Path(path).exists():
            raise UserError(
                f"there is no option {option}.{did_you_mean(option, options)} `ta infer --help` lists them."
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
            report_skipped(path, others)
            paths += found
        else:
            paths.append(path)
    return paths


def look_through(folder: str) -> tuple[list[str], list[str]]:
    """Return the recordings below a folder, by their names; and its other files, and the folders not entered."""
    from ..decoding import AUDIO_SUFFIXES

    files: list[Path] = []
    others: list[str] = []  # folders that cannot be read, and links to folders, which may form a cycle

    def note(error: OSError) -> None:
        others.append(str(error.filename))

    for place, folders, names in os.walk(folder, onerror=note):
        others += [str(path) for name in folders if (path := Path(place, name)).is_symlink()]
        files += [Path(place, name) for name in names]
    found, litter = [], "._"  # prefix of files in which macOS keeps a file's attributes
    for file in sorted(files):
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(litter):
            found.append(str(file))
        else:
            others.append(str(file))
    return found, others


def report_skipped(folder: str, paths: Sequence[str]) -> None:
    """Name and count the files and folders in a folder that are skipped."""
    if paths:
        named = ", ".join(paths[:MAX_TOLD]) + (", ..." if len(paths) > MAX_TOLD else "")
        count = f"{len(paths):,} file{'s' if len(paths) > 1 else ''}"
        print(f"ta infer: {folder}: {count} skipped, no recordings by their names: {named}", file=sys.stderr)


def choose_channels(paths: Sequence[str], channel: str) -> list[str]:
    """Add the chosen channels, as in `call.wav@0`, to the paths that do not name one themselves.

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


def write(transcriptions: Iterable[Transcription], out: Output) -> int:
    """Write each transcript when it is done, warn of doubtful ones, and return 1 if one failed, else 0."""
    failed = False
    for item in transcriptions:
        if item.error is not None:
            failed = True
            print(f"ta infer: error: {item.path}: {item.error}", file=sys.stderr)
        for line in warnings(item):
            print(f"ta infer: warning: {item.path}: {line}", file=sys.stderr)
        out.add(item)
    return int(failed)
