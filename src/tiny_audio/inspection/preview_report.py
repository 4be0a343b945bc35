"""A preview for the terminal; and as a folder: wav files of the model's input, a page with players, and all tokens."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import soundfile
from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from ..errors import UserError
from ..lengths import SAMPLE_RATE
from ..pages import render
from ..plot.figure import style
from .preview import AUDIO, TAUGHT, PreviewClip, Token

STYLES = {AUDIO: "cyan", TAUGHT: "bold green"}
INDENT = 10
# White space that is part of a token has to be visible.
VISIBLE = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍"})


def print_preview(console: Console, clips: Sequence[PreviewClip]) -> None:
    """Print each clip: where it is from, its lengths, its transcripts, its tokens."""
    for number, clip in enumerate(clips, 1):
        console.print(Text.assemble((f"{number}. {clip.corpus}: {clip.name}", "bold"), f"  (draw {clip.draw:,})"))
        if clip.skipped is not None:
            field(console, "skipped", Text(clip.skipped, "red"))
            console.print()
            continue
        field(console, "length", Text(describe_lengths(clip)))
        if abs(clip.seconds - clip.listed_seconds) > 0.1:
            field(console, "", Text(f"listed as {clip.listed_seconds:.2f} s", "yellow"))
        field(console, "raw", Text(clip.raw))
        field(console, "taught", Text(clip.taught))
        if clip.context:
            field(console, "context", Text(clip.context))
        reads = [token for token in clip.tokens or () if token.part != TAUGHT]
        writes = [token for token in clip.tokens or () if token.part == TAUGHT]
        field(console, "reads", join(reads))
        field(console, "writes", join(writes, "|"))
        if not clip.given_back:
            field(console, "mismatch", Text(f"the target tokens decode to: {clip.written}", "bold red"))
        console.print()
    wrong = sum(clip.skipped is None and not clip.given_back for clip in clips)
    skipped = sum(clip.skipped is not None for clip in clips)
    verdict = [f"{len(clips)} clip{'s' * (len(clips) > 1)}"]
    verdict += [f"{skipped} would be skipped"] if skipped else []
    verdict += [f"{wrong} whose tokens decode to another text" if wrong else "all tokens decode to their transcript"]
    console.print(Text(", ".join(verdict) + ". The loss covers only what the decoder writes."))


def field(console: Console, name: str, value: Text) -> None:
    """Print a value after its name, indented on all of its lines."""
    lines = value.wrap(console, console.width - INDENT) or [Text()]
    for i, line in enumerate(lines):
        line.rstrip()
        console.print(Text.assemble(("" if i else f"  {name}".ljust(INDENT), "dim"), " " * INDENT * bool(i), line))


def describe_lengths(clip: PreviewClip) -> str:
    """Return the lengths of a clip from samples to audio tokens, in one line."""
    return (
        f"{clip.seconds:.2f} s = {clip.num_samples:,} samples > {clip.num_mel_frames:,} mel frames > "
        f"{clip.num_encoder_frames:,} encoder frames > {clip.num_audio_tokens:,} audio tokens"
    )


def runs(tokens: Sequence[Token]) -> Iterator[tuple[str, list[Token]]]:
    """Yield neighboring tokens of the same part together."""
    for part, group in groupby(tokens, lambda token: token.part):
        yield part, list(group)


def join(tokens: Sequence[Token], between: str = "") -> Text:
    """Return tokens as text; audio tokens as their number."""
    joined = Text()
    for part, group in runs(tokens):
        if part == AUDIO:
            joined.append(f"[{len(group)} audio tokens]", STYLES[AUDIO])
            continue
        for i, token in enumerate(group):
            joined.append(between if i else "", "dim")
            joined.append(visible(token.text), STYLES.get(part, "dim"))
    return joined


def visible(text: str) -> str:
    """Return a token's text with visible line ends."""
    return text.translate(VISIBLE)


def write_preview(clips: Sequence[PreviewClip], folder: Path) -> Path:
    """Write `001.wav` and so on, `clips.jsonl` and `index.html` into a folder; return the page.

    Raises:
        UserError: they cannot be written.
    """
    page = folder / "index.html"
    try:
        for number, clip in enumerate(clips, 1):
            if clip.waveform is not None:
                # Floats, not 16 bits: the model's input may exceed full scale.
                soundfile.write(folder / wav_name(number), clip.waveform, SAMPLE_RATE, subtype="FLOAT")
        lines = (json.dumps(to_row(number, clip), ensure_ascii=False) for number, clip in enumerate(clips, 1))
        (folder / "clips.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        page.write_text(build_page(clips), encoding="utf-8")
    except (OSError, soundfile.SoundFileError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"output={folder}: cannot be written ({reason}).") from None
    return page


def wav_name(number: int) -> str:
    """Return the name of a clip's wav file."""
    return f"{number:03}.wav"


def to_row(number: int, clip: PreviewClip) -> dict[str, Any]:
    """Return all of a clip except its audio, for `clips.jsonl`."""
    row = asdict(clip)
    del row["waveform"], row["mel"]
    lengths = {"num_samples": clip.num_samples, "num_mel_frames": clip.num_mel_frames}
    return {"wav": wav_name(number) if clip.num_samples else None, **row, **lengths, "given_back": clip.given_back}


def build_page(clips: Sequence[PreviewClip]) -> str:
    """Return the page with the spectrograms; the audio files are beside it."""
    return render(
        "inspection/preview.html",
        title="The input of the model",
        clips=clips,
        lengths=describe_lengths,
        wav_name=wav_name,
        mel=draw_mel,
        runs=runs,
        visible=visible,
    )


def draw_mel(clip: PreviewClip) -> str:
    """Draw the spectrogram of a clip that was read; return a PNG in base64."""
    assert clip.mel is not None
    mel, seconds = clip.mel, clip.mel.shape[1] / 100
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(float(np.clip(1.2 + 1.2 * seconds, 4, 13)), 2.2), layout="constrained")
        ax = figure.subplots()
        ax.imshow(mel, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, mel.shape[0]))
        ax.set_xlabel("seconds")
        ax.set_ylabel("mel bin")
        ax.grid(visible=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
    return base64.b64encode(buffer.getvalue()).decode()
