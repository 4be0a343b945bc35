"""Settings of the models: which models, which parts train, and how transcripts are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import ConfigError
from .checks import above, at_least, at_most, choice, fraction

# model.projector_type -> its module and class in model/projectors. A new projector needs a file there and a line here.
PROJECTORS = {
    "mlp": "mlp.MLPProjector",
    "mosa": "mosa.MOSAProjector",
    "moe": "moe.MoEProjector",
    "qformer": "qformer.QFormerProjector",
    "conv": "conv.ConvProjector",
}
ENCODER_WINDOWS = ("clip", "padded", "30s")
MAX_BEAMS = 100
MAX_EXAMPLES = 100


@dataclass
class ProjectorConfig:
    """Widths of the projector; `null` takes the value from the models or the projector's own default."""

    input_dim: int | None = None  # encoder width; a value that differs from the encoder's is an error
    output_dim: int | None = None  # decoder width; a value that differs from the decoder's is an error
    hidden_dim: int | None = None  # mlp, conv: hidden width, qformer: feed-forward width; twice the decoder's
    frame_stack: int = 4  # encoder frames of an audio token: 4 x 20 ms
    dropout: float = 0.1  # within the projector, in training
    num_experts: int | None = None  # mosa: 4, moe: 8
    num_experts_per_token: int = 2  # moe
    expert_dim: int = 512  # mosa, moe
    load_balancing_loss_weight: float = 0.01  # moe
    num_queries: int = 32  # qformer: queries of a window
    window_frames: int = 128  # qformer: encoder frames of a window
    num_layers: int = 2  # qformer, conv
    num_heads: int = 8  # qformer
    conv_dim: int = 384  # conv: width of the convolution blocks
    kernel_size: int = 9  # conv: audio tokens that a block mixes, odd

    def __post_init__(self) -> None:
        for name in (
            *("input_dim", "output_dim", "hidden_dim", "frame_stack", "num_experts", "num_experts_per_token"),
            *("expert_dim", "num_queries", "window_frames", "num_layers", "num_heads"),
            *("conv_dim", "kernel_size"),
        ):
            at_least(f"model.projector_config.{name}", getattr(self, name), 1)
        for name in ("num_experts", "num_layers", "kernel_size"):
            at_most(f"model.projector_config.{name}", getattr(self, name), 1000)
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"model.projector_config.kernel_size must be odd, got {self.kernel_size}.")
        fraction("model.projector_config.dropout", self.dropout)
        at_least("model.projector_config.load_balancing_loss_weight", self.load_balancing_loss_weight, 0)


@dataclass
class LoraConfig:
    """Low-rank adapters on the decoder (arXiv 2106.09685)."""

    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.05  # of the adapters' input, in training
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj", "o_proj"])  # layers with adapters

    def __post_init__(self) -> None:
        at_least("model.lora_config.r", self.r, 1)
        above("model.lora_config.lora_alpha", self.lora_alpha, 0)
        fraction("model.lora_config.lora_dropout", self.lora_dropout)


@dataclass
class SearchConfig:
    """How transcripts are written: greedily by the decoder, or by decoder and CTC head together (arXiv 1706.02737)."""

    beams: int = 1  # hypotheses that are kept at once; 1: the decoder writes greedily, alone
    ctc_weight: float = 0.5  # of CTC's log-probability, against the decoder's, with 2 beams or more
    audio: bool = True  # false: the decoder reads only the prompt, as CTC's language model, with 2 beams or more
    examples: int = 4  # with audio=false: training transcripts after the prompt, as examples of their style
    prior_weight: float = 0.0  # of the log-frequency of word pieces, which is subtracted from CTC's log-probability
    max_nats: float | None = None  # per word piece by CTC, with 2 beams or more; a text that costs more is not written
    speech_nats: float | None = None  # per audio token; where silence would cost CTC this much, max_nats is not applied

    @property
    def reads_audio(self) -> bool:
        """Whether the decoder reads the audio. If not, it is only CTC's language model."""
        return self.beams == 1 or self.audio

    def __post_init__(self) -> None:
        at_least("model.search.beams", self.beams, 1)
        at_most("model.search.beams", self.beams, MAX_BEAMS)
        above("model.search.ctc_weight", self.ctc_weight, 0)
        at_least("model.search.prior_weight", self.prior_weight, 0)
        above("model.search.max_nats", self.max_nats, 0)
        above("model.search.speech_nats", self.speech_nats, 0)
        at_least("model.search.examples", self.examples, 0)
        at_most("model.search.examples", self.examples, MAX_EXAMPLES)


class SearchChanges(NamedTuple):
    """Settings of `SearchConfig` that differ from a checkpoint's; None: as in the checkpoint."""

    beams: int | None = None
    ctc_weight: float | None = None
    prior_weight: float | None = None
    max_nats: float | None = None


CHECKPOINTS_OWN = SearchChanges()


@dataclass
class ModelConfig:
    """Which models are used, and which parts train. Encoder and decoder: a Hub id, a local folder, or `pocket`."""

    encoder: str = "zai-org/GLM-ASR-Nano-2512"
    encoder_revision: str | None = None
    decoder: str = "Qwen/Qwen3-0.6B"
    decoder_revision: str | None = None  # a commit or tag of the Hub; null: the newest
    encoder_window: str = "30s"  # what is encoded at once: the clip, padded by some silence, or with silence to 30s
    # The layers whose outputs the projector reads, side by side, from 1 on; []: only the last one
    encoder_layers: list[int] = field(default_factory=list)
    prompt: str = "Transcribe the speech to text."  # the instruction in the user's turn, after the audio
    context_prompt: str = "Context: {context}"  # the line after the prompt, for a clip with a context
    projector_type: str = "mlp"
    projector_config: ProjectorConfig = field(default_factory=ProjectorConfig)
    projector_checkpoint: str | None = None  # start the projector from this checkpoint
    checkpoint: str | None = None  # start projector and LoRA from this checkpoint
    freeze_projector: bool = False  # true: keep the weights of its checkpoint
    freeze_lora: bool = False  # true: keep the weights of the adapters
    use_lora: bool = False
    freeze_decoder: bool = True  # false: all of the decoder's weights train, in fp32
    audio_token_dropout: float = 0.0  # share of the audio tokens that a training step hides, in spans
    frame_masking: float = 0.0  # share of the encoder frames that a training step hides from the projector, in spans
    channel_masking: float = 0.0  # share of the encoder's channels that a training step hides, chosen for each clip
    lora_config: LoraConfig = field(default_factory=LoraConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        choice("model.projector_type", self.projector_type, tuple(PROJECTORS))
        choice("model.encoder_window", self.encoder_window, ENCODER_WINDOWS)
        if any(number < 1 for number in self.encoder_layers):
            raise ConfigError(f"model.encoder_layers counts layers from 1 on, got {list(self.encoder_layers)}.")
        if self.encoder == "THUDM/glm-asr-large":
            raise ConfigError(
                "model.encoder=THUDM/glm-asr-large does not exist; the published model is zai-org/GLM-ASR-Nano-2512."
            )
        for name in ("audio_token_dropout", "frame_masking", "channel_masking"):
            if not 0 <= (share := getattr(self, name)) <= 0.5:
                raise ConfigError(f"model.{name} must be between 0 and 0.5, got {share:g}.")
        if not self.prompt.strip():
            raise ConfigError("model.prompt must not be empty.")
        if self.context_prompt.count("{context}") != 1:
            raise ConfigError(
                f"model.context_prompt must hold {{context}} once, where the context goes, got {self.context_prompt!r}."
            )
        experts, active = self.projector_config.num_experts or 8, self.projector_config.num_experts_per_token
        if self.projector_type == "moe" and active > experts:
            raise ConfigError(
                "model.projector_config.num_experts_per_token must be at most num_experts, which is "
                f"{experts}, got {active}."
            )
        if self.freeze_projector and self.freeze_decoder and (self.freeze_lora or not self.use_lora):
            raise ConfigError(
                "model.freeze_projector=true leaves nothing to train; train LoRA with model.use_lora=true "
                "model.freeze_lora=false, or the projector with model.freeze_projector=false."
            )
        if self.freeze_projector and not (self.projector_checkpoint or self.checkpoint):
            raise ConfigError(
                "model.freeze_projector=true would freeze a projector that was never trained; "
                "name one: model.projector_checkpoint=outputs/transcription/checkpoints/final.pt"
            )
        if self.use_lora and not self.freeze_decoder:
            raise ConfigError("model.freeze_decoder=false trains all of the decoder; leave model.use_lora out.")
