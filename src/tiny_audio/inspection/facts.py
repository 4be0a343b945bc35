"""Facts about the data of a configuration: only numbers and names, to judge, print, draw or write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MAX_NAMED = 5  # clips that are named for a finding; the count says how many there are


@dataclass
class Spread:
    """The spread of values."""

    min: float
    median: float
    mean: float
    max: float

    @classmethod
    def of(cls, values: np.ndarray | Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(values.min()), float(np.median(values)), float(values.mean()), float(values.max()))


@dataclass
class Histogram:
    """K counts between K + 1 edges; values outside are counted at the ends."""

    edges: list[float]
    counts: list[int]

    @classmethod
    def of(cls, values: np.ndarray | Sequence[float], edges: np.ndarray) -> Histogram:
        """Count values between edges."""
        values = np.clip(np.asarray(values, dtype=np.float64), edges[0], edges[-1])
        return cls([round(float(edge), 6) for edge in edges], np.histogram(values, edges)[0].tolist())

    def joined(self, most: int) -> Histogram:
        """Return at most `most` counts: neighboring ones are joined, the same number everywhere but at the end."""
        group = -(-len(self.counts) // most)
        counts = [sum(self.counts[i : i + group]) for i in range(0, len(self.counts), group)]
        step = self.edges[1] - self.edges[0]
        return Histogram([self.edges[0] + i * group * step for i in range(len(counts) + 1)], counts)


@dataclass
class Named:
    """Clips with something in common: how many there are, and the first few as (name, note)."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, note: str = "") -> None:
        """Count a clip, and keep its name while there is room."""
        self.count += 1
        if len(self.examples) < MAX_NAMED:
            self.examples.append((name, note))


def clips(count: int) -> str:
    """Write a number of clips."""
    return f"{count:,} clip{'' if count == 1 else 's'}"


@dataclass
class Outlier:
    """A clip whose length does not fit its transcript: its seconds, and the seconds usual for such a text here."""

    name: str
    seconds: float
    expected_seconds: float
    characters: int
    words_per_second: float
    transcript: str


@dataclass
class OddCharacter:
    """An unusual character, and the clips with it; `taught`: it stays in the cleaned transcript."""

    character: str
    unicode_name: str
    taught: bool
    clips: Named = field(default_factory=Named)


@dataclass
class TextFacts:
    """Cleaned transcripts; `cased`, `punctuated`, `tags`, `taken_out`, some `odd_characters` are of raw transcripts.

    Attributes:
        words, vocabulary, characters: number of words, of different words, of characters.
        distinct: different transcripts.
        words_per_second: of the clips; `rate_histogram` likewise.
        correlation: Spearman's, of clips' seconds and characters; None where clips are too few or too much alike.
        seconds_per_character, seconds_around: a text takes seconds_around + characters * seconds_per_character.
        outliers: the clips that are furthest from that, worst first, `num_outliers` in all.
        cased, punctuated: share of transcripts with capitals beside small letters, with punctuation.
        capitals: share of cleaned transcripts with a capital.
        odd_characters: of a foreign script or class, in few transcripts.
        repeats: suspiciously frequent transcripts: (transcript, clips).
        tags: marks such as {noise} and (laughs), whose words the model would learn.
        taken_out: tags such as <unk> and [noise], which cleaning removes; their numbers as #.
        unspaced: whether their language is written without spaces.
    """

    words: int
    vocabulary: int
    characters: int
    distinct: int
    words_per_second: Spread
    rate_histogram: Histogram
    correlation: float | None = None
    seconds_per_character: float | None = None
    seconds_around: float | None = None
    outliers: list[Outlier] = field(default_factory=list)
    num_outliers: int = 0
    cased: float = 0.0
    punctuated: float = 0.0
    capitals: float = 0.0
    odd_characters: list[OddCharacter] = field(default_factory=list)
    repeats: list[tuple[str, Named]] = field(default_factory=list)
    tags: dict[str, Named] = field(default_factory=dict)
    taken_out: dict[str, Named] = field(default_factory=dict)
    unspaced: bool = False


@dataclass
class HeaderFacts:
    """Facts from the headers of `looked` recordings.

    Attributes:
        kinds: clips by kind, such as `flac, 16 kHz, mono`.
        low_rate: recordings below 16 kHz.
        failed: recordings that cannot be opened, by reason.
        shorter, longer: recordings whose length differs from the listed one.
    """

    looked: int
    kinds: dict[str, int] = field(default_factory=dict)
    low_rate: Named = field(default_factory=Named)
    failed: dict[str, Named] = field(default_factory=dict)
    shorter: Named = field(default_factory=Named)
    longer: Named = field(default_factory=Named)


@dataclass
class DecodedFacts:
    """Facts from decoding `looked` clips as training does. Levels are in dB below full scale (dBFS).

    Attributes:
        skipped: clips that training would skip, by reason.
        rms, peak: levels; None if no clip could be read.
        rms_histogram: of the level.
        bandwidth_khz: above it there is only quantization noise.
        clipped, quiet: recordings that are at full scale for too long, or far too quiet.
    """

    looked: int
    skipped: dict[str, Named] = field(default_factory=dict)
    rms: Spread | None = None
    peak: Spread | None = None
    rms_histogram: Histogram | None = None
    bandwidth_khz: Spread | None = None
    clipped: Named = field(default_factory=Named)
    quiet: Named = field(default_factory=Named)

    @property
    def skipped_share(self) -> float:
        """Share of the decoded clips that training would skip."""
        return sum(named.count for named in self.skipped.values()) / max(self.looked, 1)


@dataclass
class TokenFacts:
    """Target tokens of `looked` transcripts: their number, and the transcripts over training.max_new_tokens.

    Also the transcripts that the tokenizer does not decode to the same text: unknown characters, lost spaces.
    """

    looked: int
    tokens: Spread
    too_long: Named = field(default_factory=Named)
    not_given_back: Named = field(default_factory=Named)


@dataclass
class CorpusFacts:
    """A corpus of the mixture (role `train`) or of the evaluation (`eval`).

    Attributes:
        clips, hours: usable ones by the listed durations and texts.
        speakers: how many; None if the corpus does not say.
        top_speaker: share of the clips of the speaker with the most.
        durations, duration_histogram: seconds.
        left_out: clips that were left out at indexing, by reason.
        repeated_names: names that belong to several clips.
        contexts: clips with a context; the contexts of `whole_contexts` hold the whole transcript.
        points: (seconds, characters, is outlier) of a sample, for a picture.
    """

    name: str
    role: str
    clips: int
    hours: float
    speakers: int | None
    top_speaker: float | None
    durations: Spread
    duration_histogram: Histogram
    left_out: dict[str, Named]
    repeated_names: Named
    text: TextFacts
    headers: HeaderFacts | None = None
    decoded: DecodedFacts | None = None
    tokens: TokenFacts | None = None
    contexts: int = 0
    whole_contexts: Named = field(default_factory=Named)
    points: list[tuple[float, int, bool]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"{self.name} ({self.role})"


@dataclass
class Pair:
    """Two clips of the same recording, as `corpus: name`, and the evidence."""

    first: str
    second: str
    evidence: str


@dataclass
class OverlapFacts:
    """Clips, transcripts and speakers that are in both evaluation and training.

    Attributes:
        leaked: evaluation clips that are also training clips; `num_leaked` of them in all.
        duplicates: recordings that are listed twice in training; `num_duplicates` of them in all.
        all_compared: whether all recordings of equal size were compared; false: only some, to save time.
        eval_clips: number of evaluation clips.
        known_transcripts: share of evaluation transcripts, of five words or more, that are in the training set too;
            None if there are none so long.
        shared_speakers: names of speakers in both; None where either does not name speakers.
        eval_speakers: number of speakers in the evaluation; None if it does not name them.
    """

    leaked: list[Pair]
    num_leaked: int
    duplicates: list[Pair]
    num_duplicates: int
    all_compared: bool
    eval_clips: int
    known_transcripts: float | None
    shared_speakers: list[str] | None
    eval_speakers: int | None


@dataclass
class Share:
    """A corpus's share of draws, of clips, of hours and of drawn hours; and the number of passes over it in a run."""

    name: str
    draws: float
    clips: float
    hours: float
    drawn_hours: float
    passes: float


@dataclass
class MixtureFacts:
    """The draws of `steps` steps of `clips_per_step` clips, and the share of padding in their batches.

    Attributes:
        padding: in planned batches; `padding_random`: in random batches; `padding_30s`: with each clip padded to 30 s.
    """

    steps: int
    clips_per_step: int
    drawn_hours: float
    epochs: float
    shares: list[Share]
    padding: float
    padding_random: float
    padding_30s: float


@dataclass
class Finding:
    """A problem that the user should solve. `severe`: training would not start, would stop, or would teach nonsense.

    Attributes:
        kind: one word for scripts, such as `leak`.
        corpus: the corpus; empty for the whole data.
        what: what was found.
        todo: what to do.
        clips: the first few, by name.
    """

    kind: str
    severe: bool = field(default=False, kw_only=True)
    corpus: str = field(default="", kw_only=True)
    what: str
    todo: str
    clips: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Report:
    """All facts and findings."""

    corpora: list[CorpusFacts]
    overlap: OverlapFacts | None
    mixture: MixtureFacts
    max_skipped_share: float
    tokenizer: str | None  # why there are no tokens, or None
    findings: list[Finding] = field(default_factory=list)

    @property
    def severe(self) -> bool:
        """Whether there is a severe finding."""
        return any(finding.severe for finding in self.findings)
