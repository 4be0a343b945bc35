"""A preview as a folder: wav files as the model hears them, a page with players, and the tokens for programs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import soundfile
from matplotlib.figure import Figure

from ..errors import UserError
from ..lengths import SAMPLE_RATE
from ..plot.figure import style
from ..plot.page import document
from .preview import AUDIO, PreviewClip, describe_lengths
from .preview_report import runs, visible

STYLE = """\
.clip { border-top: 1px solid var(--line); padding: 1em 0; }
.clip h2 { margin: 0 0 .4em; overflow-wrap: anywhere; }
.clip audio { display: block; margin: .5em 0; width: 100%; max-width: 700px; }
.clip img { display: block; max-width: 100%; border-radius: 6px; margin: .5em 0; }
.clip p { margin: .2em 0; }
.name { display: inline-block; width: 5em; color: var(--faint); }
.token { font: 13px ui-monospace, monospace; padding: .15em .3em; margin: 0 1px; border-radius: 3px;
         white-space: pre; display: inline-block; line-height: 1.5; }
.prompt { background: #8883; }
.audio { background: #56B4E955; }
.taught { background: #009E7355; font-weight: bold; }
.wrong { color: #D55E00; font-weight: bold; }
"""


def write_preview(clips: Sequence[PreviewClip], folder: Path) -> Path:
    """Write `001.wav` and so on, `clips.jsonl` and `index.html` into a folder; return the page.

    Raises:
        UserError: they cannot be written.
    """
    page = folder / "index.html"
    try:
        for number, clip in enumerate(clips, 1):
            if clip.waveform is not None:
                # Floats, not 16 bits: what the model hears may stand above full scale.
                soundfile.write(folder / wav_name(number), clip.waveform, SAMPLE_RATE, subtype="FLOAT")
        lines = (json.dumps(to_row(number, clip), ensure_ascii=False) for number, clip in enumerate(clips, 1))
        (folder / "clips.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        page.write_text(build_page(clips), encoding="utf-8")
    except (OSError, soundfile.SoundFileError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"output={folder}: cannot be written ({reason}).") from None
    return page


def wav_name(number: int) -> str:
    """Return the file of a clip's sound."""
    return f"{number:03}.wav"


def to_row(number: int, clip: PreviewClip) -> dict[str, Any]:
    """Return all of a clip but its sound, for `clips.jsonl`."""
    row = asdict(clip)
    del row["waveform"], row["mel"]
    lengths = {"num_samples": clip.num_samples, "num_mel_frames": clip.num_mel_frames}
    return {"wav": wav_name(number) if clip.num_samples else None, **row, **lengths, "given_back": clip.given_back}


def build_page(clips: Sequence[PreviewClip]) -> str:
    """Return the page, spectrograms within it; the sound lies beside it."""
    legend = " ".join(
        f'<span class="token {part}">{words}</span>'
        for part, words in (
            ("prompt", "prompt: read, not taught"),
            (AUDIO, "audio tokens, from the projector"),
            ("taught", "taught: the loss is taken of these"),
        )
    )
    body = "\n".join(describe(number, clip) for number, clip in enumerate(clips, 1))
    return document("What the model sees and hears", f"<p>{legend}</p>\n{body}", STYLE)


def describe(number: int, clip: PreviewClip) -> str:
    """Return a clip as HTML."""
    head = f"<h2>{number}. {escape(clip.corpus)}: {escape(clip.name)}</h2>"
    if clip.skipped is not None:
        return f'<div class="clip">{head}<p class="wrong">skipped: {escape(clip.skipped)}</p></div>'
    assert clip.mel is not None
    wrong = "" if clip.given_back else line("mismatch", escape(clip.written), "wrong")
    return f"""<div class="clip">{head}
<p>{escape(describe_lengths(clip))}; listed as {clip.listed_seconds:.2f} s; draw {clip.draw:,}</p>
<audio controls preload="none" src="{wav_name(number)}"></audio>
<img alt="log-mel spectrogram" src="data:image/png;base64,{base64.b64encode(draw_mel(clip.mel)).decode()}">
{line("raw", escape(clip.raw))}
{line("taught", escape(clip.taught))}
{line("context", escape(clip.context)) if clip.context else ""}
{wrong}<p>{tokens_html(clip)}</p>
</div>"""


def line(name: str, value: str, kind: str = "") -> str:
    """Return a named line of HTML."""
    return f'<p><span class="name">{name}</span> <span class="{kind}">{value}</span></p>'


def tokens_html(clip: PreviewClip) -> str:
    """Return a clip's tokens, coloured by their part; ids show under the pointer."""
    spans = []
    for part, group in runs(clip.tokens or []):
        if part == AUDIO:
            spans.append(f'<span class="token {AUDIO}">{len(group)} audio tokens</span>')
        else:
            spans += [
                f'<span class="token {part}" title="{token.id}">{escape(visible(token.text))}</span>' for token in group
            ]
    return "<wbr>".join(spans)


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
