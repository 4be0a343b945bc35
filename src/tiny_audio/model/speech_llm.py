"""The whole model: frozen encoder, trained projector, frozen decoder.

Dimensions: B clips, S samples, T audio tokens of all clips, N decoder positions of all clips, K target tokens of all
clips, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import SearchConfig
from ..data.loader import Batch
from ..errors import UserError
from ..lengths import FRAME_SECONDS, SAMPLE_RATE
from ..pieces import WordPieces
from .alignment import AlignedWord, align_words
from .ctc import CTCHead
from .decoder import Decoder
from .device import upload
from .encoder import SpeechEncoder
from .masking import draw_hidden, mask_frames
from .projectors import Projected, Projector
from .search import JointSearch
from .sequences import Sequences

# Forms of a compiled layer: of encoder and decoder; of the first layer, which reads a view, and of the others; for
# one clip and for several; of the decoder, with and without gradients.
COMPILED_FORMS = 12


class Loss(NamedTuple):
    """The loss of a batch.

    Attributes:
        cross_entropy: **summed** over the batch's target tokens, fp32.
        num_targets: the number of target tokens.
        ctc: the CTC loss of the audio tokens, **summed** over the clips, fp32; 0 if it is not asked for.
        ctc_weight: the factor of `ctc` in the objective.
        auxiliary, expert_usage: see `Projected`.
    """

    cross_entropy: Tensor
    num_targets: int
    ctc: Tensor
    ctc_weight: float
    auxiliary: Tensor
    expert_usage: Tensor

    @property
    def objective(self) -> Tensor:
        """The value to minimize, summed over target tokens; the step's loss is it divided by the step's tokens.

        The auxiliary loss is a mean. It is multiplied by the batch's target tokens, so that accumulated batches and
        several processes add up to a mean over the step.
        """
        return self.cross_entropy + self.ctc_weight * self.ctc + self.num_targets * self.auxiliary


class Written(NamedTuple):
    """A transcript, whether it was ended because it looped, and whether the limit of tokens cut it off."""

    text: str
    looped: bool
    cut_off: bool


class SpeechLLM(nn.Module):
    """Speech recognizer: the decoder reads projected encoder frames in the place of the audio.

    The encoder is always frozen; `build_speech_llm` chooses what else trains.

    Args:
        encoder, projector, decoder: the parts.
        audio_token_dropout: share of the audio tokens that are hidden from the decoder in training.
        frame_masking, channel_masking: shares of the encoder frames, and of their channels, that are hidden from the
            projector in training: see `mask_frames`.

    Attributes:
        ctc: scores of audio tokens against word pieces; None if the projector was never trained by CTC.
        ctc_weight: weight of the CTC loss in training, which is added to the decoder's loss.
        search: how decoder and CTC head search together; with one beam the decoder writes greedily, alone.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        projector: Projector,
        decoder: Decoder,
        audio_token_dropout: float = 0.0,
        frame_masking: float = 0.0,
        channel_masking: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.decoder = decoder
        self.audio_token_dropout = audio_token_dropout
        self.frame_masking, self.channel_masking = frame_masking, channel_masking
        self._compiled = False
        self.ctc: CTCHead | None = None
        self.ctc_weight = 0.0
        self._split: WordPieces | None = None
        self._joint: JointSearch | None = None
        self.search = SearchConfig()

    def add_ctc(self, vocabulary: Tensor, frequencies: Tensor) -> None:
        """Add an untrained CTC head over these word pieces (V,) with these log-probabilities (V,)."""
        self.ctc = CTCHead(vocabulary, frequencies, self.decoder.decoder_dim).to(self.device)
        log_probs = dict(zip(vocabulary.tolist(), frequencies.tolist(), strict=True))
        self._split = WordPieces(self.decoder.prompt.tokenizer, log_probs)
        self._joint = JointSearch(self.ctc, self._split, self.decoder)

    def pieces(self, transcripts: Sequence[str]) -> list[Tensor]:
        """Return the word pieces (U_i,) int64 of each transcript, the targets of CTC."""
        assert self._split is not None
        return [torch.tensor(self._split(text), dtype=torch.int64) for text in transcripts]

    @property
    def reads_audio(self) -> bool:
        """Whether the decoder reads the audio. If not, it is only CTC's language model, and learns from text alone."""
        return self.search.reads_audio

    @property
    def tokenize(self) -> Callable[[str], list[int]]:
        """The function that returns the target tokens of a transcript."""
        return self.decoder.prompt.target_ids if self.reads_audio else self.decoder.prompt.line_ids

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.projector.parameters()).device

    def encode(self, batch: Batch) -> tuple[Tensor, list[int]]:
        """Return the encoder frames (N, D) of a batch, one clip after another, and each clip's number of frames."""
        if batch.features is not None:
            return upload(batch.features, self.device), self.encoder.num_frames(batch.num_samples)
        frames, lengths = self.encoder(upload(batch.waveforms, self.device), batch.num_samples)
        return frames, lengths

    def audio_tokens(self, frames: Tensor, lengths: list[int]) -> tuple[Projected, list[int]]:
        """Project encoder frames (N, D) of B clips; return the tokens, and how many each clip has."""
        frames = frames.float()
        if self.training and (self.frame_masking or self.channel_masking):
            frames = mask_frames(frames, lengths, self.frame_masking, self.channel_masking)
        projected: Projected = self.projector(frames, lengths)
        return projected, [self.projector.num_tokens(n) for n in lengths]

    def embed(
        self, frames: Tensor, lengths: list[int], targets: Sequence[Tensor], contexts: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Sequences, Projected]:
        """Return the decoder's input (N, W), its layout (see `Sequences.lay_out`), and the projector's result."""
        projected, counts = self.audio_tokens(frames, lengths)
        sequences = Sequences.lay_out(self.decoder.prompt, counts, targets, frames.device, contexts)
        embeddings = self.decoder.embed(sequences.token_ids)
        tokens = projected.tokens.to(embeddings.dtype)
        return embeddings.index_copy(0, sequences.audio_positions, tokens), sequences, projected

    def forward(self, batch: Batch) -> Loss:
        """Compute the loss of a batch.

        The batch is one object, since wrappers for several GPUs move bare tensors to their GPU, and lengths and targets
        must stay on the CPU. Without clips the loss is a zero that gives every weight a zero gradient, so that this
        process takes part in the step of the others.
        """
        return self._loss_of(batch, *self._read(batch, self.reads_audio))

    @torch.no_grad()
    def assess(self, batch: Batch, max_new_tokens: int) -> tuple[Tensor, list[Written]]:
        """Return the summed cross-entropy of a batch, and the transcript of each clip: see `write`."""
        frames, lengths, targets = self._read(batch)
        loss = self._loss_of(batch, frames, lengths, targets)
        written = self.write(frames, lengths, max_new_tokens, contexts=batch.context_ids)
        return loss.cross_entropy, written[: len(batch)]

    def _read(self, batch: Batch, encode: bool = True) -> tuple[Tensor, list[int], Sequence[Tensor]]:
        """Return frames, lengths and targets; without clips, of an empty one, so that all processes run all layers."""
        if len(batch) and encode:
            return *self.encode(batch), batch.target_ids
        frames = torch.zeros(128, self.encoder.encoder_dim, device=self.device)
        return frames, [len(frames)], batch.target_ids or [torch.tensor([self.decoder.prompt.end_id])]

    def _loss_of(self, batch: Batch, frames: Tensor, lengths: list[int], targets: Sequence[Tensor]) -> Loss:
        weight = self.ctc_weight if self.training else 0.0
        pieces = self.pieces(batch.transcripts or [""]) if weight else None
        loss = self.loss(frames, lengths, targets, pieces, weight, batch.context_ids)
        if len(batch):
            return loss
        nothing = (loss.cross_entropy + loss.ctc + loss.auxiliary) * 0.0
        none = nothing.detach()
        return Loss(nothing, 0, none, 0.0, none, torch.zeros_like(loss.expert_usage))

    def loss(
        self,
        frames: Tensor,
        lengths: list[int],
        targets: Sequence[Tensor],
        pieces: Sequence[Tensor] | None = None,
        ctc_weight: float = 0.0,
        contexts: Sequence[Tensor] = (),
    ) -> Loss:
        """Compute the loss of B clips; of their transcripts as text if the decoder does not read audio.

        Args:
            frames: (N, D) encoder frames, the clips one after another.
            lengths: frames of each clip.
            targets: B tensors (K_i,) int64 on the CPU, see `tokenize`.
            pieces: B tensors (U_i,) int64 on the CPU, see `pieces`, for the CTC loss; None: no CTC loss.
            ctc_weight: of the CTC loss.
            contexts: B tensors (C_i,) int64 on the CPU, see `Prompt.context_ids`; empty: no clip has a context.
        """
        if not self.reads_audio:
            return self._text_loss(targets, contexts)
        embeddings, sequences, projected = self.embed(frames, lengths, targets, contexts)
        counts = [self.projector.num_tokens(n) for n in lengths]
        if self.training and self.audio_token_dropout:
            hidden = draw_hidden(counts, self.audio_token_dropout)
            positions = sequences.audio_positions[upload(hidden, frames.device)]
            embeddings = embeddings.index_fill(0, positions, 0.0)
        total = self.decoder.loss(embeddings, sequences.lengths, sequences.predict_positions, sequences.targets)
        ctc = total.new_zeros(())
        if pieces is not None:
            assert self.ctc is not None
            ctc = self.ctc(projected.tokens, counts, pieces, self.decoder.embed).loss
        return Loss(total, len(sequences.targets), ctc, ctc_weight, projected.auxiliary, projected.expert_usage)

    def _text_loss(self, targets: Sequence[Tensor], contexts: Sequence[Tensor]) -> Loss:
        # In training, targets are several lines, and each line is an example for the next.
        examples = [] if self.training else self.decoder.prompt.example_ids
        embeddings, sequences = self._embed_text(targets, contexts, examples)
        total = self.decoder.loss(embeddings, sequences.lengths, sequences.predict_positions, sequences.targets)
        none = total.new_zeros(())
        return Loss(total, len(sequences.targets), none, 0.0, none, none.new_zeros(self.projector.num_experts))

    def _embed_text(
        self, targets: Sequence[Tensor], contexts: Sequence[Tensor], examples: list[int]
    ) -> tuple[Tensor, Sequences]:
        """Return what CTC's language model reads (N, W), and its layout: the prompt, the examples, the targets."""
        none = [0] * len(targets)
        sequences = Sequences.lay_out(self.decoder.prompt, none, targets, self.device, contexts, examples)
        return self.decoder.embed(sequences.token_ids), sequences

    def check_alignable(self) -> None:
        """Refuse to align words without a CTC head.

        Raises:
            UserError: there is none.
        """
        if self.ctc is None:
            raise UserError(
                "words are placed by the CTC head, which this checkpoint lacks: train one with "
                "training.ctc_loss_weight=0.3 (and training.ctc_warmup_steps=500)."
            )

    def check_search(self) -> None:
        """Refuse to search without a CTC head.

        Raises:
            UserError: there is none.
        """
        if self.search.beams > 1 and self.ctc is None:
            raise UserError(
                "a search (model.search.beams above 1) needs a CTC head: train with training.ctc_loss_weight=0.3 (and "
                "training.ctc_warmup_steps=500), or set beams to 1."
            )

    @torch.no_grad()
    def align(self, frames: Tensor, num_samples: Tensor, transcripts: Sequence[str]) -> list[list[AlignedWord] | None]:
        """Find the words of each of B transcripts in its clip, and their probabilities: see `align_words`.

        Args:
            frames: (N, D) encoder frames, the clips one after another.
            num_samples: (B,) int64 on the CPU, lengths of the clips.
            transcripts: B transcripts.

        Raises:
            UserError: there is no CTC head.
        """
        self.check_alignable()
        assert self.ctc is not None
        assert self._split is not None
        windows = self.encoder.windows_of(num_samples)
        projected, counts = self.audio_tokens(frames, [window.kept for window in windows])
        spans = [(-window.before * FRAME_SECONDS, (window.kept - window.before) * FRAME_SECONDS) for window in windows]
        seconds = [n / SAMPLE_RATE for n in num_samples.tolist()]
        where = (projected.tokens, counts, spans, seconds, transcripts)
        return align_words(self.ctc, self._split, self.decoder.embed, *where)

    def transcribe(self, frames: Tensor, lengths: list[int], max_new_tokens: int) -> list[str]:
        """Return the text of `write`, without a guard."""
        return [written.text for written in self.write(frames, lengths, max_new_tokens)]

    @torch.no_grad()
    def write(
        self,
        frames: Tensor,
        lengths: list[int],
        max_new_tokens: int,
        guarded: bool = False,
        contexts: Sequence[Tensor] = (),
    ) -> list[Written]:
        """Write a transcript of each of B clips: greedily, or as `search` says.

        A clip gets at most `transcript_limit` tokens. The limit depends on the clip alone, not on its neighbors.

        Args:
            frames: (N, D) encoder frames, the clips one after another.
            lengths: frames of each clip.
            max_new_tokens: upper limit for any clip.
            guarded: end a transcript that loops; see `LoopGuard`. A search needs no guard, as CTC scores loops low.
            contexts: see `loss`.

        Returns:
            B transcripts.
        """
        nothing = [torch.empty(0, dtype=torch.int64)] * len(lengths)
        if self.reads_audio:
            embeddings, sequences, projected = self.embed(frames, lengths, nothing, contexts)
        else:
            embeddings, sequences = self._embed_text(nothing, contexts, self.decoder.prompt.example_ids)
            projected, _ = self.audio_tokens(frames, lengths)
        counts = [self.projector.num_tokens(n) for n in lengths]
        limits = [transcript_limit(count, max_new_tokens) for count in counts]
        clips = embeddings.split(sequences.lengths)
        if self.search.beams > 1:
            self.check_search()
            assert self._joint is not None
            found = self._joint.write(clips, projected.tokens, counts, limits, self.search)
            return [Written(self.decoder.prompt.decode(ids), False, cut_off) for ids, cut_off in found]
        kept: dict[int, int] = {}
        # Compiling gains nothing for one token at a time, and each length of the cache would be compiled anew.
        eager = torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()
        with eager:
            rows = self.decoder.generate(clips, limits, kept if guarded else None)
        written = []
        for clip, (ids, limit) in enumerate(zip(rows, limits, strict=True)):
            text = self.decoder.prompt.decode(ids[: kept.get(clip, limit)])
            written.append(Written(text, clip in kept, clip not in kept and len(ids) == limit))
        return written

    def compile_layers(self) -> None:
        """Have the layers of encoder and decoder compiled when they first run, once for batches of any size.

        The layers of a model are alike, so all use what is compiled for one, in at most `COMPILED_FORMS` forms.
        Beyond torch's limit of 8 forms, further ones would run uncompiled, without a warning. The projector stays
        uncompiled, as it is 1 % of the work.
        """
        self._compiled = True
        _ = self.decoder.reading  # found by passes of other forms, which must not be compiled
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, COMPILED_FORMS)
        for layer in (*self.encoder.layers, *self.decoder.layers):
            layer.compile(dynamic=True)


def transcript_limit(num_audio_tokens: int, max_new_tokens: int) -> int:
    """Return the most tokens that are written for a clip.

    It is 16 and two for each audio token, so that a decoder that does not stop costs little.
    """
    return min(max_new_tokens, 16 + 2 * num_audio_tokens)
