"""What the model will read: the first draws of a run, through the plan, loader and prompt of training."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from ..config import Config, ModelConfig
from ..data.augment import open_augmenter
from ..data.contexts import ContextReader
from ..data.loader import Batch, ClipDataset, train_loader
from ..data.plan import SamplingPlan
from ..errors import UserError
from ..lengths import SAMPLE_RATE, align_samples, num_mel_frames, window_of
from ..mel import LogMel
from ..model.decoder import load_prompt
from ..model.encoder import read_mel_bins
from ..model.projectors import Projector, build_projector
from ..model.sequences import Sequences
from ..prompt import Prompt
from ..training.build import build_plan, usable_workers
from .check import Opened, open_raw, open_role

logger = logging.getLogger(__name__)

MEL_BINS = 128  # where the encoder's own number is not known
PROMPT, AUDIO, TAUGHT = "prompt", "audio", "taught"
# Widths of the published models; the number of tokens of a projector does not depend on them.
ENCODER_DIM, DECODER_DIM = 1280, 1024


@dataclass
class Token:
    """One position that the decoder reads: its id (None for audio), its text, and its part."""

    id: int | None
    text: str
    part: str


@dataclass
class PreviewClip:
    """One draw, as the model gets it. S samples, M mel bins, L mel frames.

    Attributes:
        draw: its number in the stream.
        corpus, row, name: which clip it is.
        listed_seconds: its duration in the corpus.
        waveform: (S,) float32 at 16 kHz, augmented if the run augments, zero-padded to whole 80 ms.
        mel: (M, L) log-mel spectrogram.
        num_encoder_frames, num_audio_tokens: lengths on the way to the decoder.
        raw: the transcript as the corpus has it.
        taught: the cleaned transcript, which the model learns.
        context: its context, if this draw is read with it.
        tokens: all tokens that the decoder reads.
        written: the target tokens, decoded.
        skipped: why the clip cannot be used; all other fields but its name are then empty.
    """

    draw: int
    corpus: str
    row: int
    name: str
    listed_seconds: float = 0.0
    waveform: np.ndarray | None = None
    mel: np.ndarray | None = None
    num_encoder_frames: int = 0
    num_audio_tokens: int = 0
    raw: str = ""
    taught: str = ""
    context: str = ""
    tokens: list[Token] | None = None
    written: str = ""
    skipped: str | None = None

    @property
    def num_samples(self) -> int:
        """Samples at 16 kHz, in whole units of 80 ms."""
        return 0 if self.waveform is None else len(self.waveform)

    @property
    def seconds(self) -> float:
        """Seconds of these samples."""
        return self.num_samples / SAMPLE_RATE

    @property
    def num_mel_frames(self) -> int:
        """Mel frames of 10 ms."""
        return num_mel_frames(self.num_samples)

    @property
    def given_back(self) -> bool:
        """Whether the target tokens decode to the transcript."""
        return self.written == self.taught


def preview(config: Config, count: int) -> list[PreviewClip]:
    """Return the first clips that a run of this configuration would draw, including those that it would skip.

    Args:
        config: a configuration of `ta train`; only the tokenizer of its models is loaded.
        count: how many clips; whole batches are drawn, and cut to this number.

    Raises:
        UserError: there is no corpus, or no tokenizer.
    """
    model = config.model
    prompt = load_prompt(model.decoder, model.decoder_revision, model.prompt, model.context_prompt)
    opened = open_role(config, "train", as_drawn=True)
    if not opened:
        raise UserError("data.datasets is empty; name a corpus, such as data=librispeech, or a manifest.")
    sources = [one.source for one in opened]
    plan = build_plan(config, sources)
    batches = -(-count // config.training.batch_size)
    augmenter = open_augmenter(config.data, config.training.seed)
    contexts = ContextReader(prompt.context_ids, config.data.context_dropout, config.training.seed)
    dataset = ClipDataset(sources, prompt.target_ids, config.data, augmenter, contexts)
    loader = train_loader(
        plan, dataset, stop_batch=batches, num_workers=min(usable_workers(config.data.num_workers), batches)
    )
    viewer = _Viewer(opened, prompt, projector_of(model), model.encoder_window, LogMel(mel_bins(model)))
    drawn = (clip for number, batch in enumerate(loader) for clip in viewer.view(batch, plan, number))
    clips = list(islice(drawn, count))
    add_raw(clips, opened, config)
    return clips


def projector_of(model: ModelConfig) -> Projector:
    """Build the projector without memory for weights: only its number of tokens is used."""
    config = model.projector_config
    with torch.device("meta"):
        return build_projector(
            model.projector_type, config, config.input_dim or ENCODER_DIM, config.output_dim or DECODER_DIM
        )


def mel_bins(model: ModelConfig) -> int:
    """Return how many mel bins the encoder reads; 128, the usual number, where its configuration is not available."""
    try:
        return read_mel_bins(model.encoder, model.encoder_revision)
    except UserError as error:
        logger.warning("Spectrograms are shown with %d mel bins: %s", MEL_BINS, error)
        return MEL_BINS


class _Viewer:
    """Splits batches into clips."""

    def __init__(
        self, opened: list[Opened], prompt: Prompt, projector: Projector, encoder_window: str, log_mel: LogMel
    ) -> None:
        self.opened, self.prompt, self.projector = opened, prompt, projector
        self.encoder_window, self.log_mel = encoder_window, log_mel

    def view(self, batch: Batch, plan: SamplingPlan, number: int) -> Iterator[PreviewClip]:
        """Yield the clips of the batch `number`, in the order of its draws."""
        place = {draw: i for i, draw in enumerate(batch.draws)}
        skipped = {(skip.source, skip.name): f"{skip.reason}: {skip.detail}" for skip in batch.skipped}
        for draw in plan.batch(number):
            source = self.opened[draw.source].source
            name = source.names[draw.row]
            if draw.number in place:
                clip = PreviewClip(draw.number, source.name, draw.row, name, float(source.durations[draw.row]))
                self._fill(clip, batch, place[draw.number])
                if source.contexts is not None and len(batch.context_ids[place[draw.number]]):
                    clip.context = source.contexts[draw.row]
                yield clip
            else:
                yield PreviewClip(draw.number, source.name, draw.row, name, skipped=skipped[source.name, name])

    def _fill(self, clip: PreviewClip, batch: Batch, i: int) -> None:
        length = align_samples(int(batch.num_samples[i]))
        waveform = batch.waveforms[i, :length]
        clip.waveform = waveform.numpy().copy()
        clip.mel = self.log_mel(waveform[None], torch.tensor([length]))[0].numpy()
        clip.num_encoder_frames = window_of(int(batch.num_samples[i]), self.encoder_window).kept
        clip.num_audio_tokens = self.projector.num_tokens(clip.num_encoder_frames)
        clip.taught = batch.transcripts[i]
        clip.written = self.prompt.decode(batch.target_ids[i].tolist())
        clip.tokens = lay_out(self.prompt, clip.num_audio_tokens, batch.target_ids[i], batch.context_ids[i])


def lay_out(prompt: Prompt, num_audio: int, target: torch.Tensor, context: torch.Tensor) -> list[Token]:
    """Return what the decoder reads for a clip, in the layout of training; the loss covers the taught positions."""
    sequence = Sequences.lay_out(prompt, [num_audio], [target], torch.device("cpu"), [context])
    parts = [PROMPT] * sequence.lengths[0]
    for position in sequence.audio_positions.tolist():
        parts[position] = AUDIO
    for position in sequence.predict_positions.tolist():
        parts[position + 1] = TAUGHT  # a position predicts the next one
    ids = sequence.token_ids.tolist()
    return [
        Token(None, "", AUDIO) if part == AUDIO else Token(token, text, part)
        for token, text, part in zip(ids, prompt.pieces(ids), parts, strict=True)
    ]


def add_raw(clips: list[PreviewClip], opened: list[Opened], config: Config) -> None:
    """Look the transcripts up again, as the corpora have them."""
    for one in opened:
        wanted: dict[int, list[PreviewClip]] = {}
        for clip in clips:
            if clip.corpus == one.source.name:
                wanted.setdefault(int(one.source.table_rows[clip.row]), []).append(clip)
        table = open_raw(one, config) if wanted else None
        for table_row, raw in enumerate(table.texts if table is not None else ()):
            for clip in wanted.get(table_row, ()):
                clip.raw = raw or ""
