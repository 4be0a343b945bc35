"""A preview as a folder: wav files of the model's input, a page with players, and the tokens for programs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import soundfile
from matplotlib.figure import Figure

from ..errors import UserError
from ..lengths import SAMPLE_RATE
from ..pages import render
from ..plot.figure import style
from .preview import PreviewClip, describe_lengths
from .preview_report import runs, visible


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
        mel=encoded_mel,
        runs=runs,
        visible=visible,
    )


def encoded_mel(clip: PreviewClip) -> str:
    """Return the picture of a clip's spectrogram, a PNG in base64."""
    assert clip.mel is not None
    return base64.b64encode(draw_mel(clip.mel)).decode()


def draw_mel(mel: np.ndarray) -> bytes:
    """Draw a log-mel spectrogram (M, L) as a PNG."""
    seconds = mel.shape[1] / 100
    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(float(np.clip(1.2 + 1.2 * seconds, 4, 13)), 2.2), layout="constrained")
        ax = figure.subplots()
        ax.imshow(mel, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, mel.shape[0]))
        ax.set_xlabel("seconds")
        ax.set_ylabel("mel bin")
        ax.grid(visible=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
