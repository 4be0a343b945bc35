"""Settings of a run's surroundings: trackers, the machine, folders."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..errors import ConfigError
from .checks import above, at_least, check_device, choice

TRACKERS = ("wandb", "tensorboard", "trackio")
PRECISIONS = ("auto", "bf16", "fp16", "no")
ATTENTIONS = ("auto", "varlen", "flash_attn", "sdpa")


@dataclass
class LoggingConfig:
    """Where metrics are written. `metrics.jsonl` in the output folder is always written."""

    report_to: list[str] | None = None  # wandb, tensorboard, trackio; null: wandb if use_wandb is true
    use_wandb: bool = True
    project_name: str = "tiny-audio"  # the project at the tracker
    entity: str | None = None
    run_name: str | None = None
    tags: list[str] = field(default_factory=list)  # of the run at W&B
    notes: str | None = None  # of the run at W&B
    log_steps: int = 100
    log_transcripts: int = 20  # transcripts of each evaluation that are logged

    def __post_init__(self) -> None:
        at_least("logging.log_steps", self.log_steps, 1)
        at_least("logging.log_transcripts", self.log_transcripts, 0)
        for name in self.report_to or ():
            choice("logging.report_to", name, TRACKERS)

    @property
    def trackers(self) -> list[str]:
        """The trackers to log to, besides the files of the output folder."""
        by_default = ["wandb"] if self.use_wandb else []
        return by_default if self.report_to is None else self.report_to


@dataclass
class HardwareConfig:
    """`device`: auto (CUDA, else Apple's MPS, else CPU), cuda, cuda:N, mps, cpu."""

    device: str = "auto"
    mixed_precision: str = "auto"  # auto: bf16 if the GPU or CPU multiplies it, else fp32
    attention: str = "auto"  # auto: a kernel for packed clips if there is one, else sdpa
    compile: bool = False
    cuda_graph: bool = False  # in evaluation, each step of decoding is one CUDA graph
    fsdp: bool = False  # several processes shard projector and decoder, instead of a copy on each
    num_threads: int | None = None  # CPU threads of the model; null: torch's own choice
    setup_timeout_minutes: float = 720.0  # that a process waits for another before the first step, for downloads
    training_timeout_minutes: float = 15.0  # that a process waits for another from the first step on
    peak_tflops: float | None = None  # peak of the device, for train/mfu; null: from a table of common GPUs
    profile_steps: str | None = None  # such as 10-12: a trace of these steps by torch's profiler

    def __post_init__(self) -> None:
        check_device("hardware.device", self.device)
        if self.mixed_precision == "False":  # YAML reads `no` as a boolean
            self.mixed_precision = "no"
        choice("hardware.mixed_precision", self.mixed_precision, PRECISIONS)
        choice("hardware.attention", self.attention, ATTENTIONS)
        if self.fsdp and self.mixed_precision == "fp16":
            raise ConfigError(
                "hardware.fsdp=true has no loss scaling; set hardware.mixed_precision=bf16 or no, not fp16."
            )
        if self.fsdp and self.cuda_graph:
            raise ConfigError("hardware.fsdp=true moves weights in each step, which hardware.cuda_graph cannot record.")
        at_least("hardware.num_threads", self.num_threads, 1)
        above("hardware.setup_timeout_minutes", self.setup_timeout_minutes, 0)
        above("hardware.training_timeout_minutes", self.training_timeout_minutes, 0)
        above("hardware.peak_tflops", self.peak_tflops, 0)
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
