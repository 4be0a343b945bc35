"""The settings of a run: typed schemas of `configs/`, validated once, at the door. Imports no torch.

Every field is what a person may choose; what is known only at run time (the device, the encoder's width) is
passed beside these objects and never stored in them. Ranges and choices are checked in `__post_init__`, with
the setting named as it is typed on the command line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .config_errors import did_you_mean, explain
from .errors import ConfigError
from .lengths import MAX_CLIP_SECONDS

if TYPE_CHECKING:
    from omegaconf import DictConfig

# model.projector_type -> its module and class in model/projectors: a new projector is a file there and a line here.
PROJECTORS = {
    "mlp": "mlp.MLPProjector",
    "mosa": "mosa.MOSAProjector",
    "moe": "moe.MoEProjector",
    "qformer": "qformer.QFormerProjector",
    "conv": "conv.ConvProjector",
}
PRECISIONS = ("auto", "bf16", "fp16", "no")
SCHEDULES = ("cosine", "linear", "constant")
METRICS = ("wer", "cer", "loss")
TEXT_CASES = ("lower", "keep")
AUGMENTATIONS = ("none", "light")
DEVICES = ("auto", "cuda", "mps", "cpu")
TRACKERS = ("wandb", "tensorboard", "trackio")
ENCODER_WINDOWS = ("clip", "30s")
CTC_WARMUP_STEPS = 500
MAX_BEAMS = 100
ATTENTIONS = ("auto", "varlen", "flash_attn", "sdpa")


def _finite(key: str, value: float | None) -> None:
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"{key} must be a finite number, got {value:g}.")


def _at_least(key: str, value: float | None, low: float) -> None:
    _finite(key, value)
    if value is not None and value < low:
        raise ConfigError(f"{key} must be at least {low:g}, got {value:g}.")


def _at_most(key: str, value: float | None, high: float) -> None:
    if value is not None and value > high:
        raise ConfigError(f"{key} must be at most {high:g}, got {value:g}.")


def _above(key: str, value: float | None, low: float) -> None:
    _finite(key, value)
    if value is not None and value <= low:
        raise ConfigError(f"{key} must be greater than {low:g}, got {value:g}.")


def _fraction(key: str, value: float | None) -> None:
    if value is not None and not 0 <= value < 1:
        raise ConfigError(f"{key} must be at least 0 and below 1, got {value:g}.")


def _choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        hint = did_you_mean(value, allowed)
        raise ConfigError(f"{key} must be one of {', '.join(allowed)}, got {value}.{hint}")


def check_device(key: str, device: str) -> None:
    """Refuse what is not the name of a device: auto, cuda, cuda:N, mps, cpu.

    Raises:
        ConfigError: naming `key`, the setting or option that was typed.
    """
    if device.lower() in ("gpu", "nvidia", "rocm"):
        raise ConfigError(f"{key} must be one of {', '.join(DEVICES)}, got {device}. Did you mean cuda?")
    if not re.fullmatch(r"cuda:\d+", device):
        _choice(key, device, DEVICES)


@dataclass
class ProjectorConfig:
    """Widths of the projector; `null` takes the value from the models or the projector's own default."""

    input_dim: int | None = None  # encoder width; a value that disagrees with the encoder is an error
    output_dim: int | None = None  # decoder width; likewise
    hidden_dim: int | None = None  # mlp, conv: hidden width, qformer: feed-forward width; twice the decoder's
    frame_stack: int = 4  # encoder frames an audio token: 4 x 20 ms
    dropout: float = 0.1  # of what the projector computes inside, in training
    num_experts: int | None = None  # mosa: 4, moe: 8
    num_experts_per_token: int = 2  # moe
    expert_dim: int = 512  # mosa, moe
    load_balancing_loss_weight: float = 0.01  # moe
    num_queries: int = 32  # qformer: queries a window
    window_frames: int = 128  # qformer: encoder frames a window
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
            _at_least(f"model.projector_config.{name}", getattr(self, name), 1)
        for name in ("num_experts", "num_layers", "kernel_size"):
            _at_most(f"model.projector_config.{name}", getattr(self, name), 1000)
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"model.projector_config.kernel_size must be odd, got {self.kernel_size}.")
        _fraction("model.projector_config.dropout", self.dropout)
        _at_least("model.projector_config.load_balancing_loss_weight", self.load_balancing_loss_weight, 0)


@dataclass
class LoraConfig:
    """Low-rank adapters on the decoder (arXiv 2106.09685)."""

    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.05  # of what the adapters read, in training
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj", "o_proj"])  # layers with adapters

    def __post_init__(self) -> None:
        _at_least("model.lora_config.r", self.r, 1)
        _above("model.lora_config.lora_alpha", self.lora_alpha, 0)
        _fraction("model.lora_config.lora_dropout", self.lora_dropout)


@dataclass
class SearchConfig:
    """How transcripts are written: greedily by the decoder, or by decoder and CTC head together (arXiv 1706.02737)."""

    beams: int = 1  # texts that are followed at once; 1: the decoder writes greedily, alone
    ctc_weight: float = 0.5  # of the log-probability by CTC beside the decoder's, with 2 beams or more
    audio: bool = True  # false: the decoder reads the prompt alone, as CTC's language model, with 2 beams or more

    def __post_init__(self) -> None:
        _at_least("model.search.beams", self.beams, 1)
        _at_most("model.search.beams", self.beams, MAX_BEAMS)
        _above("model.search.ctc_weight", self.ctc_weight, 0)


@dataclass
class ModelConfig:
    """Which models, and what of them trains. Encoder and decoder: a hub id, a local folder, or `pocket`."""

    encoder: str = "zai-org/GLM-ASR-Nano-2512"
    encoder_revision: str | None = None
    decoder: str = "Qwen/Qwen3-0.6B"
    decoder_revision: str | None = None  # likewise a commit or tag
    encoder_window: str = "30s"  # what is encoded at once: 30s (silence after the clip), or the clip alone
    prompt: str = "Transcribe the speech to text."  # the instruction in the user's turn, after the audio
    context_prompt: str = "Context: {context}"  # the line below it, where something is known of a clip
    projector_type: str = "mlp"
    projector_config: ProjectorConfig = field(default_factory=ProjectorConfig)
    projector_checkpoint: str | None = None  # start the projector from this checkpoint
    checkpoint: str | None = None  # start projector and LoRA from this checkpoint
    freeze_projector: bool = False  # it stays as its checkpoint has it
    freeze_lora: bool = False  # likewise the adapters
    use_lora: bool = False
    freeze_decoder: bool = True  # false: all of its weights train, in fp32
    audio_token_dropout: float = 0.0  # share of the audio tokens that a training step hides, in spans
    frame_masking: float = 0.0  # share of the encoder's frames that a training step hides from the projector, in spans
    channel_masking: float = 0.0  # share of the encoder's channels that a training step hides, of each clip others
    lora_config: LoraConfig = field(default_factory=LoraConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        _choice("model.projector_type", self.projector_type, tuple(PROJECTORS))
        _choice("model.encoder_window", self.encoder_window, ENCODER_WINDOWS)
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


@dataclass
class TrainingConfig:
    """The optimization. A step is an optimizer step; batch_size is clips a step, process and accumulation."""

    max_steps: int = 50_000
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    total_batch_size: int | None = None  # clips a step over all processes; accumulation follows from it
    learning_rate: float = 5e-4
    decoder_learning_rate: float | None = None  # of LoRA or of the decoder itself; null: learning_rate
    min_learning_rate_ratio: float = 0.0  # the schedule ends at this share of learning_rate
    lr_schedule: str = "cosine"
    warmup_steps: int = 1000  # in which learning_rate is reached
    ctc_warmup_steps: int | None = None  # before the first step the projector alone learns by CTC; None: 500 or less
    ctc_learning_rate: float = 1e-3  # the peak of the warm-up
    ctc_min_count: int = 30  # occurrences of a word piece in the transcripts; rarer ones are taught as smaller ones
    ctc_loss_weight: float = 0.3  # of the CTC loss beside the decoder's, in the steps themselves
    weight_decay: float = 0.01  # of AdamW
    adam_beta1: float = 0.9  # decay of AdamW's mean of gradients
    adam_beta2: float = 0.95  # and of their squares
    gradient_clip_norm: float | None = 1.0
    eval_at_start: bool = False  # also before the first step, to see where training starts from
    eval_steps: int = 500
    eval_batch_size: int = 32
    max_new_tokens: int = 200  # of a transcript, at evaluation
    save_steps: int = 5000
    save_total_limit: int | None = 5  # the newest and the best are never deleted
    save_best_only: bool = False
    metric_for_best: str = "wer"
    greater_is_better: bool = False
    resume_from_checkpoint: str | None = None  # null: the newest in the output folder, if any
    preflight: bool = True  # find out before the first step whether memory, disk and data will do
    seed: int = 42  # of first weights, order of the data, and dropout

    def __post_init__(self) -> None:
        for name in (
            *("max_steps", "batch_size", "gradient_accumulation_steps", "total_batch_size", "eval_steps"),
            *("eval_batch_size", "max_new_tokens", "save_steps", "save_total_limit", "ctc_min_count"),
        ):
            _at_least(f"training.{name}", getattr(self, name), 1)
        for name in ("warmup_steps", "ctc_warmup_steps", "ctc_loss_weight", "weight_decay", "seed"):
            _at_least(f"training.{name}", getattr(self, name), 0)
        _above("training.learning_rate", self.learning_rate, 0)
        if self.learning_rate > 1:
            raise ConfigError(f"training.learning_rate must be at most 1, got {self.learning_rate:g}.")
        _above("training.ctc_learning_rate", self.ctc_learning_rate, 0)
        _above("training.decoder_learning_rate", self.decoder_learning_rate, 0)
        _above("training.gradient_clip_norm", self.gradient_clip_norm, 0)
        _fraction("training.adam_beta1", self.adam_beta1)
        _fraction("training.adam_beta2", self.adam_beta2)
        if not 0 <= self.min_learning_rate_ratio <= 1:
            ratio = self.min_learning_rate_ratio
            raise ConfigError(f"training.min_learning_rate_ratio must be between 0 and 1, got {ratio:g}.")
        _choice("training.lr_schedule", self.lr_schedule, SCHEDULES)
        _choice("training.metric_for_best", self.metric_for_best, METRICS)

    @property
    def num_ctc_steps(self) -> int:
        """Steps of the CTC warm-up; where none are chosen, a test of ten steps does not begin with hundreds of them."""
        return min(CTC_WARMUP_STEPS, self.max_steps) if self.ctc_warmup_steps is None else self.ctc_warmup_steps


@dataclass
class DatasetConfig:
    """One corpus of a mixture. A known `name` brings its hub id, columns and cleaner along.

    `path` is one's own: a manifest (.jsonl, .csv), a folder with `metadata.jsonl|csv` or `manifest.jsonl`,
    or a hub id.
    """

    name: str = "custom"  # a known corpus, or any name for a path: results are told by it
    path: str | None = None  # a manifest, a folder, an archive, or a Hub id
    split: str | None = None  # of the corpus, such as train
    subset: str | None = None  # a configuration of a Hub repository
    language: str | None = None  # such as en, of a corpus that has several
    release: int | None = None  # of tedlium: 3
    revision: str | None = None  # a commit or tag of the Hub; null: the newest
    weight: float = 1.0  # its share of the draws, beside those of the other corpora
    audio_column: str | None = None  # null: looked for among the usual names
    text_column: str | None = None  # likewise
    context_column: str | None = None  # of what is known of each clip; null: `context`, if there is one; '': none
    channel: int | None = None  # of the recordings, 0 being the first (the left); null mixes them

    def __post_init__(self) -> None:
        _at_least(f"data.datasets: channel of {self.name}", self.channel, 0)
        _above(f"data.datasets: weight of {self.name}", self.weight, 0)
        if self.name == "custom" and not self.path:
            raise ConfigError(
                "data=custom needs your recordings for training and for evaluation, each a manifest "
                "(.jsonl, .csv), a folder or a Hub id: "
                "data.train_path=my/train.jsonl data.eval_path=my/dev.jsonl"
            )


@dataclass
class DataConfig:
    """What is drawn, in what proportion, and what is left out."""

    name: str = "custom"  # of the preset
    train_path: str | None = None  # data=custom: the one corpus of `datasets`
    eval_path: str | None = None  # data=custom: the one corpus of `eval_datasets`
    datasets: list[DatasetConfig] = field(default_factory=list)  # to train on
    eval_datasets: list[DatasetConfig] = field(default_factory=list)  # to evaluate on
    sample_rate: int = 16_000
    max_audio_length: float = 30.0  # seconds
    min_audio_length: float = 0.1  # seconds
    max_samples: int | None = None  # a seeded subset of the training clips, in proportion to the weights
    max_eval_samples: int | None = 500  # likewise of the evaluation clips; null: all
    max_skipped_share: float = 0.2  # the run stops when more than this share of the draws had to be skipped
    text_case: str = "lower"  # lower | keep
    keep_punctuation: bool = False  # of transcripts, in training
    temperature: float = 1.0  # shares are proportional to weight^(1/temperature)
    streaming: bool = False  # fetch corpora of the Hub a row group at a time, as they are drawn
    streaming_disk_gb: float = 20.0  # that a stream may keep of each corpus in paths.cache_dir
    cache_features: bool = False  # keep the frozen encoder's outputs in paths.cache_dir, and reuse them
    speeds: list[float] = field(default_factory=lambda: [1.0])  # at which each training clip is played; 1.0 among them
    augmentation: str = "none"  # of training clips: none | light (speed, rooms, noise, gain)
    no_speech_share: float = 0.0  # of the draws: silence and noise, whose transcript is empty
    noise_path: str | None = None  # recordings of noise: a folder, a manifest, or one recording
    room_path: str | None = None  # room impulse responses, likewise
    noise_snr_db: list[float] = field(default_factory=lambda: [10.0, 30.0])  # lowest and highest
    context_dropout: float = 0.2  # share of the draws with a context that are read without it
    max_context_length: int = 1000  # characters; longer contexts are cut
    num_workers: int = 4
    prefetch_factor: int = 2

    def __post_init__(self) -> None:
        if self.sample_rate != 16_000:
            raise ConfigError(
                "data.sample_rate must be 16000, which the encoders were trained at, got "
                f"{self.sample_rate}; recordings of any rate are resampled on reading."
            )
        _above("data.min_audio_length", self.min_audio_length, 0)
        _above("data.max_audio_length", self.max_audio_length, self.min_audio_length)
        if self.max_audio_length > MAX_CLIP_SECONDS:
            seconds = self.max_audio_length
            raise ConfigError(f"data.max_audio_length must be at most {MAX_CLIP_SECONDS} seconds, got {seconds:g}.")
        _at_least("data.max_samples", self.max_samples, 1)
        _at_least("data.max_eval_samples", self.max_eval_samples, 1)
        _at_least("data.num_workers", self.num_workers, 0)
        _at_least("data.prefetch_factor", self.prefetch_factor, 1)
        _fraction("data.max_skipped_share", self.max_skipped_share)
        _fraction("data.no_speech_share", self.no_speech_share)
        if not 0 <= self.context_dropout <= 1:
            raise ConfigError(f"data.context_dropout must be between 0 and 1, got {self.context_dropout:g}.")
        _at_least("data.max_context_length", self.max_context_length, 1)
        _above("data.temperature", self.temperature, 0)
        _above("data.streaming_disk_gb", self.streaming_disk_gb, 0)
        if self.streaming and self.cache_features:
            raise ConfigError(
                "data.cache_features=true needs more disk than the recordings that data.streaming=true does without; "
                "choose one of them."
            )
        _choice("data.text_case", self.text_case, TEXT_CASES)
        self._check_augmentation()
        for key, entries in (("train_path", self.datasets), ("eval_path", self.eval_datasets)):
            path = getattr(self, key)
            if path is not None and all(entry.path != path for entry in entries):
                raise ConfigError(f"data.{key}={path} is read by data=custom only; add data=custom.")

    def _check_augmentation(self) -> None:
        _choice("data.augmentation", self.augmentation, AUGMENTATIONS)
        hundredths = {round(100 * speed) for speed in self.speeds if 0.5 <= speed <= 2}
        if 100 not in hundredths or len(hundredths) < len(self.speeds):
            raise ConfigError(
                "data.speeds must be different speeds between 0.5 and 2, 1.0 among them, as [0.9, 1.0, 1.1], got "
                f"{self.speeds}."
            )
        if len(self.speeds) > 1 and (self.streaming or self.augmentation != "none"):
            other = (
                "data.streaming=true" if self.streaming else f"data.augmentation={self.augmentation}, which has its own"
            )
            raise ConfigError(f"data.speeds={self.speeds} does not go with {other}; set data.speeds=[1.0].")
        if self.cache_features and self.augmentation != "none":
            raise ConfigError(
                f"data.cache_features=true encodes each clip once, and data.augmentation={self.augmentation} changes "
                "it at every draw: turn one of them off (model.audio_token_dropout goes with the cache)."
            )
        if self.augmentation == "none":
            if self.room_path is not None:
                raise ConfigError(
                    f"data.room_path={self.room_path} is heard with data.augmentation=light only; add it."
                )
            if self.noise_path is not None and not self.no_speech_share:
                raise ConfigError(
                    f"data.noise_path={self.noise_path} is heard with data.augmentation=light or data.no_speech_share "
                    "only; add one of them."
                )
        snr = self.noise_snr_db
        if len(snr) != 2 or not -math.inf < snr[0] <= snr[1] < math.inf:
            raise ConfigError(f"data.noise_snr_db must be the lowest and the highest ratio, as [10, 30], got {snr}.")


@dataclass
class LoggingConfig:
    """Where the numbers go. `metrics.jsonl` in the output folder is always written."""

    report_to: list[str] | None = None  # wandb, tensorboard, trackio; null: wandb where use_wandb is true
    use_wandb: bool = True
    project_name: str = "tiny-audio"  # at the tracker
    entity: str | None = None
    run_name: str | None = None
    tags: list[str] = field(default_factory=list)  # of the run at W&B
    notes: str | None = None  # likewise
    log_steps: int = 100
    log_transcripts: int = 20  # transcripts of each evaluation that are logged

    def __post_init__(self) -> None:
        _at_least("logging.log_steps", self.log_steps, 1)
        _at_least("logging.log_transcripts", self.log_transcripts, 0)
        for name in self.report_to or ():
            _choice("logging.report_to", name, TRACKERS)

    @property
    def trackers(self) -> list[str]:
        """The trackers to log to, besides the files of the output folder."""
        by_default = ["wandb"] if self.use_wandb else []
        return by_default if self.report_to is None else self.report_to


@dataclass
class HardwareConfig:
    """`device`: auto (CUDA, else Apple's MPS, else CPU), cuda, cuda:N, mps, cpu."""

    device: str = "auto"
    mixed_precision: str = "auto"  # auto: bf16 where GPU or CPU multiply it, else fp32
    attention: str = "auto"  # auto: a kernel for packed clips where there is one, else sdpa
    compile: bool = False
    fsdp: bool = False  # several processes share out projector and decoder among them, instead of a copy each
    num_threads: int | None = None  # CPU threads of the model; null: torch's own choice
    setup_timeout_minutes: float = 720.0  # that a process waits for another before the first step: downloads, indexing
    training_timeout_minutes: float = 15.0  # likewise from the first step on
    peak_tflops: float | None = None  # of the device, for train/mfu; null: known of common GPUs
    profile_steps: str | None = None  # such as 10-12: a trace of these steps by torch's profiler

    def __post_init__(self) -> None:
        check_device("hardware.device", self.device)
        if self.mixed_precision == "False":  # `no` in a YAML file is a boolean
            self.mixed_precision = "no"
        _choice("hardware.mixed_precision", self.mixed_precision, PRECISIONS)
        _choice("hardware.attention", self.attention, ATTENTIONS)
        if self.fsdp and self.mixed_precision == "fp16":
            raise ConfigError(
                "hardware.fsdp=true has no loss scaling; set hardware.mixed_precision=bf16 or no, not fp16."
            )
        _at_least("hardware.num_threads", self.num_threads, 1)
        _above("hardware.setup_timeout_minutes", self.setup_timeout_minutes, 0)
        _above("hardware.training_timeout_minutes", self.training_timeout_minutes, 0)
        _above("hardware.peak_tflops", self.peak_tflops, 0)
        if self.profile_steps is not None:
            steps = re.fullmatch(r"(\d+)(?:-(\d+))?", self.profile_steps)
            if not steps or not 1 <= int(steps[1]) <= int(steps[2] or steps[1]):
                raise ConfigError(f"hardware.profile_steps must be steps such as 10-12, got {self.profile_steps}.")


@dataclass
class PathsConfig:
    """Folders, relative to where the command is run."""

    output_dir: str = "./outputs"  # a run writes to output_dir/<experiment>
    cache_dir: str = "./cache"  # durations, features and corpora of the Hub; may be deleted
    data_dir: str = "./data"  # where archives are unpacked


@dataclass
class Config:
    """All settings of a run."""

    experiment: str = "transcription"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dicts and lists, as they are written to `config.yaml` and into checkpoints."""
        return asdict(self)


def _refuse_interpolations(key: str, value: Any) -> None:
    """Refuse what OmegaConf would resolve: the environment of whoever opens a file is none of the file's business."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_interpolations(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_interpolations(key, inner)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(f"{key} is {value[:60]}: stored settings are values, and nothing in them is looked up.")


def build_config(values: DictConfig | Mapping[str, Any]) -> Config:
    """Turn composed YAML, or the dict that `Config.to_dict` returned, into validated settings.

    Args:
        values: of a dict, which may be out of a stranger's checkpoint, no interpolation (`${oc.env:...}`) is resolved.

    Raises:
        ConfigError: a setting that does not exist; a value of the wrong type, out of range, or not a choice; an
            interpolation in a dict.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(values, DictConfig):
        _refuse_interpolations("", values)
    try:
        # Through plain values: what `+key=value` forced into a composed config is then refused like any typo.
        composed = values if isinstance(values, DictConfig) else OmegaConf.create(dict(values))
        plain = OmegaConf.to_container(composed, resolve=True)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, Config)) from None
    assert isinstance(config, Config)
    return config
