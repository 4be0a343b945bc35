"""The known corpora: where each is on the Hugging Face Hub, and the names of its parts.

Taken from public documentation in September 2026. `datasets` does not run loading scripts, so a corpus is
the parquet files below a folder of its repository. Nothing else of the repository is fetched.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import DatasetConfig
from ..errors import UserError

HUB = "https://huggingface.co/datasets"

#: Spellings of a split; a repository uses one of each.
SPLIT_SPELLINGS = (("dev", "validation", "valid", "val"), ("test", "eval"), ("train", "training"))


@dataclass(frozen=True)
class Corpus:
    """A corpus by its usual name.

    Attributes:
        hub_id: the repository.
        text_column: of the transcripts; None looks for a usual name.
        audio_column: of the recordings; None looks for a usual name.
        selector: the setting of an entry (language, subset) that names a configuration of the repository.
        configuration: the default for that setting.
        split: the default if the entry names none.
        splits: split, as users type it: (configuration, split) of the repository, if it spells them
            otherwise.
        terms: the page on which terms must be accepted first.
        note: what to do if the repository does not hold what its documentation says.
        license: as the Hub spells it, or in words if the corpus has its own terms; None: not known here.
        guessed: whether the id is a `path` of an entry that is not on this disk.
    """

    hub_id: str
    text_column: str | None = None
    audio_column: str | None = None
    selector: str | None = None
    configuration: str | None = None
    split: str = "train"
    splits: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    terms: str | None = None
    note: str | None = None
    license: str | None = None
    guessed: bool = False


CORPORA: dict[str, Corpus] = {
    # 104,014 clips and 364 h in train-clean-360. Capitals, no punctuation.
    "librispeech": Corpus(
        "openslr/librispeech_asr",
        split="train-clean-360",
        splits={
            "train-clean-100": ("clean", "train.100"),
            "train-clean-360": ("clean", "train.360"),
            "train-other-500": ("other", "train.500"),
            "dev-clean": ("clean", "validation"),
            "dev-other": ("other", "validation"),
            "test-clean": ("clean", "test"),
            "test-other": ("other", "test"),
        },
        license="cc-by-4.0",
    ),
    # 1,101,170 clips in en/train, mp3. Mozilla emptied its own repositories in October 2025; this is a
    # mirror of 17.0.
    "common_voice": Corpus(
        "fixie-ai/common_voice_17_0",
        text_column="sentence",
        selector="language",
        configuration="en",
        note="get it from https://datacollective.mozillafoundation.org, unpack it, and set path.",
        license="cc0-1.0",
    ),
    # 2,500 h in L. Capitals, punctuation as tags.
    "gigaspeech": Corpus(
        "speechcolab/gigaspeech",
        selector="subset",
        configuration="l",
        terms=f"{HUB}/speechcolab/gigaspeech",
        note="a mirror with parquet files can be set as path.",
        license="its own terms, for non-commercial research and teaching",
    ),
    # 268,263 clips and 452 h of release 3, CC-BY-NC-ND. Lower case, with <unk> for untranscribed words.
    "tedlium": Corpus("sanchit-gandhi/tedlium-data", license="cc-by-nc-nd-3.0"),
    # 543 h in en, CC0. `raw_text` is empty for many rows.
    "voxpopuli": Corpus(
        "facebook/voxpopuli",
        text_column="normalized_text",
        selector="language",
        configuration="en",
        license="cc0-1.0",
    ),
    # 250 h in small, 2,500 h in medium; no terms to accept, the simplest to begin with.
    "loquacious": Corpus(
        "speechbrain/LoquaciousSet",
        audio_column="wav",
        selector="subset",
        configuration="small",
        splits={"dev": ("dev", "dev"), "test": ("test", "test")},  # the same for all subsets
    ),
}


def known_corpus(entry: DatasetConfig) -> Corpus | None:
    """Return the corpus that an entry names; None for `custom`, or for any other name with a `path`.

    Raises:
        UserError: the name is not known and there is no path, or a setting does not belong to the corpus.
    """
    corpus = CORPORA.get(entry.name)
    if corpus is None:
        if entry.path is None:
            near = difflib.get_close_matches(entry.name, [*CORPORA, "pocket"], 1)
            hint = f"did you mean {near[0]}?" if near else "set its path: a manifest, a folder, a Hub id."
            raise UserError(
                f"data.datasets: there is no corpus {entry.name} among {', '.join([*CORPORA, 'pocket'])}; {hint}"
            )
        return None
    if entry.path is None:
        _refuse_foreign_settings(entry, corpus)
    return corpus


def _refuse_foreign_settings(entry: DatasetConfig, corpus: Corpus) -> None:
    """Refuse a setting that would have no effect."""
    for setting in ("language", "subset"):
        value = getattr(entry, setting)
        if (setting, value) == ("language", "en"):  # true of every corpus here
            continue
        if value is not None and setting != corpus.selector:
            raise UserError(
                f"data.datasets: {entry.name} has no {setting} to choose ({setting}={value}); leave it out."
            )
    if entry.release not in (None, 3) or (entry.release and entry.name != "tedlium"):
        raise UserError(f"data.datasets: {entry.name} has no release {entry.release} on the Hub; leave it out.")
    if corpus.splits and not corpus.selector and entry.split not in (None, *corpus.splits):
        raise UserError(f"data.datasets: {entry.name} has no split {entry.split}; it has {', '.join(corpus.splits)}.")


def hub_location(entry: DatasetConfig, corpus: Corpus) -> tuple[str | None, str]:
    """Return the configuration and the split of a known corpus, as its repository spells them."""
    split = entry.split or corpus.split
    if split in corpus.splits:
        return corpus.splits[split]
    subset = entry.subset.lower() if entry.subset else None  # the guide writes GigaSpeech's L as a capital
    chosen = {"language": entry.language, "subset": subset, None: None}[corpus.selector]
    return chosen or corpus.configuration, split
