"""The composition: frozen encoder, trained projector, frozen decoder.

Dimensions: B clips, S samples, T audio tokens of all clips, N decoder positions of all clips, K target tokens of all
clips, W decoder width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..config import ModelConfig
from ..data.loader import Batch
from ..errors import ConfigError
from ..prompt import Prompt
from .decoder import Decoder, load_decoder
from .encoder import SpeechEncoder, load_encoder
from .projectors import Projector, build_projector, check_projector

logger = logging.getLogger(__name__)

PROJECTOR_TITLES = {"mlp": "MLP", "mosa": "MOSA", "moe": "MoE", "qformer": "Q-Former"}


@dataclass(frozen=True)
class Sequences:
    """What the decoder reads, packed: ``prefix | audio | suffix | target`` of each clip, one clip after another.

    Attributes:
        token_ids: (N,) int64; any id where audio stands.
        audio_positions: (T,) int64, where audio tokens go.
        predict_positions: (K,) int64, the position before each target token.
        targets: (K,) int64.
        lengths: positions of each clip, summing to N.
    """

    token_ids: Tensor
    audio_positions: Tensor
    predict_positions: Tensor
    targets: Tensor
    lengths: list[int]

    @classmethod
    def lay_out(
        cls, prompt: Prompt, num_audio: Sequence[int], targets: Sequence[Tensor], device: torch.device
    ) -> Sequences:
        """Lay out clips of `num_audio` audio tokens; `targets` are (K_i,) int64, empty ones when generating."""
        prefix, suffix = torch.tensor(prompt.prefix_ids), torch.tensor(prompt.suffix_ids)
        ids: list[Tensor] = []
        audio: list[Tensor] = []
        predict: list[Tensor] = []
        lengths: list[int] = []
        start = 0
        for count, target in zip(num_audio, targets, strict=True):
            ids += [prefix, prefix.new_zeros(count), suffix, target]
            audio.append(torch.arange(count) + start + len(prefix))
            lengths.append(len(prefix) + count + len(suffix) + len(target))
            start += lengths[-1]
            predict.append(torch.arange(len(target)) + start - len(target) - 1)
        packed = [torch.cat(part).to(device, non_blocking=True) for part in (ids, audio, predict, list(targets))]
        return cls(packed[0], packed[1], packed[2], packed[3], lengths)


class SpeechLLM(nn.Module):
    """Speech recogniser: encoder frames, projected, read by the decoder in the place of the audio.

    Only the projector has gradients; encoder and decoder stay frozen and in evaluation mode.
    """

    def __init__(self, encoder: SpeechEncoder, projector: Projector, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.decoder = decoder

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.projector.parameters()).device

    def audio_tokens(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, list[int], Tensor]:
        """Turn clips into audio tokens.

        Args:
            waveforms: (B, S) float32, zero beyond each clip.
            num_samples: (B,) int64 on the CPU, multiples of 1280.

        Returns:
            tokens (T, W), the clips one after another; each clip's number of tokens; the projector's auxiliary loss.
        """
        frames, num_frames = self.encoder(waveforms, num_samples)
        tokens, auxiliary = self.projector(frames.float(), num_frames)
        return tokens, [self.projector.num_tokens(n) for n in num_frames], auxiliary

    def embed(
        self, waveforms: Tensor, num_samples: Tensor, targets: Sequence[Tensor]
    ) -> tuple[Tensor, Sequences, Tensor]:
        """Return the decoder's input (N, W), its layout, and the projector's auxiliary loss."""
        tokens, counts, auxiliary = self.audio_tokens(waveforms, num_samples)
        sequences = Sequences.lay_out(self.decoder.prompt, counts, targets, waveforms.device)
        embeddings = self.decoder.embed(sequences.token_ids)
        return embeddings.index_copy(0, sequences.audio_positions, tokens.to(embeddings.dtype)), sequences, auxiliary

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute the loss of a batch, as `loss` does.

        It comes as one object since wrappers for several GPUs move bare tensors to theirs, and lengths and targets
        are wanted on the CPU.
        """
        waveforms = batch.waveforms.to(self.device, non_blocking=True)
        return self.loss(waveforms, batch.num_samples, batch.target_ids)

    def loss(self, waveforms: Tensor, num_samples: Tensor, targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the loss of B clips.

        Args:
            waveforms: (B, S) float32, zero beyond each clip.
            num_samples: (B,) int64 on the CPU, multiples of 1280.
            targets: B tensors (K_i,) int64 on the CPU: transcript tokens and the end of the turn.

        Returns:
            The cross-entropy **summed** over all target tokens, in fp32 (the caller divides by the tokens of the
            whole step), and the projector's auxiliary loss, which is a mean. Without clips, a zero that every weight
            has a (zero) gradient from, so that this process takes part in the step of the others.
        """
        if not targets:
            nothing = torch.stack([weight.sum() for weight in self.projector.parameters()]).sum() * 0.0
            return nothing, nothing.detach()
        embeddings, sequences, auxiliary = self.embed(waveforms, num_samples, targets)
        logits = self.decoder.logits(embeddings, sequences.lengths, sequences.predict_positions)
        return cross_entropy(logits.float(), sequences.targets, reduction="sum"), auxiliary

    @torch.no_grad()
    def transcribe(self, waveforms: Tensor, num_samples: Tensor, max_new_tokens: int) -> list[str]:
        """Write down what is said in each of B clips, greedily.

        A clip gets at most `max_new_tokens`, and at most two tokens for each audio token (25 a second) besides 16, so
        that a decoder that does not stop costs little; the limit is the clip's own, never its neighbours'.

        Args:
            waveforms: (B, S) float32, zero beyond each clip.
            num_samples: (B,) int64 on the CPU, multiples of 1280.
            max_new_tokens: upper limit for any clip.

        Returns:
            B transcripts.
        """
        nothing = [torch.empty(0, dtype=torch.int64)] * len(num_samples)
        embeddings, sequences, _ = self.embed(waveforms, num_samples, nothing)
        prompt = len(self.decoder.prompt.prefix_ids) + len(self.decoder.prompt.suffix_ids)
        limits = [min(max_new_tokens, 16 + 2 * (length - prompt)) for length in sequences.lengths]
        written = self.decoder.generate(embeddings.split(sequences.lengths), limits)
        return [self.decoder.prompt.decode(ids) for ids in written]


def check_supported(config: ModelConfig) -> None:
    """Refuse what a later version will bring, before anything is loaded.

    Raises:
        ConfigError: naming the setting, and what there is.
    """
    check_projector(config.projector_type)
    if config.use_lora:
        raise ConfigError("model.use_lora=true comes in a later version; available now: training the projector.")


def build_speech_llm(config: ModelConfig, dtype: torch.dtype) -> SpeechLLM:
    """Load the frozen models of `config` in precision `dtype` and put a new fp32 projector between them."""
    check_supported(config)
    encoder = load_encoder(config.encoder, config.encoder_revision, dtype)
    decoder = load_decoder(config.decoder, config.decoder_revision, config.prompt, dtype)
    logger.info("Initializing %s projector...", PROJECTOR_TITLES[config.projector_type])
    projector = build_projector(
        config.projector_type, config.projector_config, encoder.encoder_dim, decoder.decoder_dim
    )
    return SpeechLLM(encoder, projector, decoder)
