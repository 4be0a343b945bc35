"""Settings of the data: the corpora, what is drawn of them, and what is left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..errors import ConfigError
from ..lengths import MAX_CLIP_SECONDS
from .checks import above, at_least, choice, fraction

TEXT_CASES = ("lower", "keep")
AUGMENTATIONS = ("none", "light")


@dataclass
class DatasetConfig:
    """One corpus of a mixture. A known `name` sets Hub id, columns and cleaning.

    `path` is a user's own corpus: a manifest (.jsonl, .csv), a folder with `metadata.jsonl|csv` or `manifest.jsonl`,
    or a Hub id.
    """

    name: str = "custom"  # a known corpus, or any name for a path; results are listed under it
    path: str | None = None  # a manifest, a folder, an archive, or a Hub id
    split: str | None = None  # of the corpus, such as train
    subset: str | None = None  # a configuration of a Hub repository
    language: str | None = None  # such as en, if the corpus has several
    release: int | None = None  # of TED-LIUM, such as 3
    revision: str | None = None  # a commit or tag of the Hub; null: the newest
    weight: float = 1.0  # its share of the draws, relative to the other corpora
    audio_column: str | None = None  # null: one of the usual names
    text_column: str | None = None  # null: one of the usual names
    context_column: str | None = None  # the context of each clip; null: `context`, if there is such a column; '': none
    channel: int | None = None  # of the recordings; 0 is the first (left) one; null mixes them

    def __post_init__(self) -> None:
        at_least(f"data.datasets: channel of {self.name}", self.channel, 0)
        above(f"data.datasets: weight of {self.name}", self.weight, 0)
        if self.name == "custom" and not self.path:
            raise ConfigError(
                "data=custom needs your recordings for training and for evaluation, each a manifest "
                "(.jsonl, .csv), a folder or a Hub id: "
                "data.train_path=my/train.jsonl data.eval_path=my/dev.jsonl"
            )


@dataclass
class DataConfig:
    """What is drawn, in what proportion, and what is left out."""

    name: str = "custom"  # name of the preset
    train_path: str | None = None  # data=custom: the one corpus of `datasets`
    eval_path: str | None = None  # data=custom: the one corpus of `eval_datasets`
    datasets: list[DatasetConfig] = field(default_factory=list)  # corpora to train on
    eval_datasets: list[DatasetConfig] = field(default_factory=list)  # corpora to evaluate on
    sample_rate: int = 16_000
    max_audio_length: float = 30.0  # seconds
    min_audio_length: float = 0.1  # seconds
    max_samples: int | None = None  # a seeded subset of the training clips, in proportion to the weights
    max_eval_samples: int | None = 500  # a seeded subset of the evaluation clips; null: all
    max_skipped_share: float = 0.2  # the run stops if more than this share of the draws is skipped
    text_case: str = "lower"  # lower | keep
    keep_punctuation: bool = False  # of transcripts, in training
    text_path: str | None = None  # text without recordings, from which CTC's language model learns words
    temperature: float = 1.0  # shares are proportional to weight^(1/temperature)
    streaming: bool = False  # fetch corpora of the Hub a row group at a time, as they are drawn
    streaming_disk_gb: float = 20.0  # disk space for each streamed corpus in paths.cache_dir
    cache_features: bool = False  # keep the frozen encoder's outputs in paths.cache_dir, and reuse them
    speeds: list[float] = field(default_factory=lambda: [1.0])  # of each training clip; must include 1.0
    augmentation: str = "none"  # of training clips: none | light (speed, rooms, noise, gain)
    no_speech_share: float = 0.0  # of the draws: silence and noise with an empty transcript
    noise_path: str | None = None  # recordings of noise: a folder, a manifest, or one recording
    room_path: str | None = None  # room impulse responses: a folder, a manifest, or one recording
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
        above("data.min_audio_length", self.min_audio_length, 0)
        above("data.max_audio_length", self.max_audio_length, self.min_audio_length)
        if self.max_audio_length > MAX_CLIP_SECONDS:
            seconds = self.max_audio_length
            raise ConfigError(f"data.max_audio_length must be at most {MAX_CLIP_SECONDS} seconds, got {seconds:g}.")
        at_least("data.max_samples", self.max_samples, 1)
        at_least("data.max_eval_samples", self.max_eval_samples, 1)
        at_least("data.num_workers", self.num_workers, 0)
        at_least("data.prefetch_factor", self.prefetch_factor, 1)
        fraction("data.max_skipped_share", self.max_skipped_share)
        fraction("data.no_speech_share", self.no_speech_share)
        if not 0 <= self.context_dropout <= 1:
            raise ConfigError(f"data.context_dropout must be between 0 and 1, got {self.context_dropout:g}.")
        at_least("data.max_context_length", self.max_context_length, 1)
        above("data.temperature", self.temperature, 0)
        above("data.streaming_disk_gb", self.streaming_disk_gb, 0)
        if self.streaming and self.cache_features:
            raise ConfigError(
                "data.cache_features=true needs more disk than the recordings that data.streaming=true does without; "
                "choose one of them."
            )
        choice("data.text_case", self.text_case, TEXT_CASES)
        self._check_augmentation()
        for key, entries in (("train_path", self.datasets), ("eval_path", self.eval_datasets)):
            path = getattr(self, key)
            if path is not None and all(entry.path != path for entry in entries):
                raise ConfigError(f"data.{key}={path} is read by data=custom only; add data=custom.")

    def _check_augmentation(self) -> None:
        choice("data.augmentation", self.augmentation, AUGMENTATIONS)
        hundredths = {round(100 * speed) for speed in self.speeds if 0.5 <= speed <= 2}
        if 100 not in hundredths or len(hundredths) < len(self.speeds):
            raise ConfigError(
                "data.speeds must be different speeds between 0.5 and 2, 1.0 among them, as [0.9, 1.0, 1.1], got "
                f"{self.speeds}."
            )
        if len(self.speeds) > 1 and (self.streaming or self.augmentation != "none"):
            other = "data.streaming=true" if self.streaming else f"data.augmentation={self.augmentation}"
            raise ConfigError(f"data.speeds={self.speeds} cannot be combined with {other}; set data.speeds=[1.0].")
        if self.cache_features and self.augmentation != "none":
            raise ConfigError(
                f"data.cache_features=true encodes each clip once, and data.augmentation={self.augmentation} changes "
                "it at every draw: turn one of them off (model.audio_token_dropout works with the cache)."
            )
        if self.augmentation == "none":
            if self.room_path is not None:
                raise ConfigError(f"data.room_path={self.room_path} is used with data.augmentation=light only; add it.")
            if self.noise_path is not None and not self.no_speech_share:
                raise ConfigError(
                    f"data.noise_path={self.noise_path} is used with data.augmentation=light or data.no_speech_share "
                    "only; add one of them."
                )
        snr = self.noise_snr_db
        if len(snr) != 2 or not -math.inf < snr[0] <= snr[1] < math.inf:
            raise ConfigError(f"data.noise_snr_db must be the lowest and the highest ratio, as [10, 30], got {snr}.")
