"""What is known of the data of a configuration: numbers and names only, ready to be judged, printed, drawn, written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MAX_NAMED = 5  # clips that are named for a finding; the count says how many there are


@dataclass
class Spread:
    """Where values lie."""

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
    """K counts between K + 1 edges; what lies outside is counted at the ends."""

    edges: list[float]
    counts: list[int]

    @classmethod
    def of(cls, values: np.ndarray | Sequence[float], edges: np.ndarray) -> Histogram:
        """Count values between edges."""
        values = np.clip(np.asarray(values, dtype=np.float64), edges[0], edges[-1])
        return cls([round(float(edge), 6) for edge in edges], np.histogram(values, edges)[0].tolist())


@dataclass
class Named:
    """Clips that share something: how many there are, and the first few as (name, what of it)."""

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
    """A clip whose length does not fit its transcript: seconds that it takes, seconds that such a text takes here."""

    name: str
    seconds: float
    expected_seconds: float
    characters: int
    words_per_second: float
    transcript: str


@dataclass
class OddCharacter:
    """A character out of the ordinary, and the clips with it; `taught`: it is left of the transcript as taught."""

    character: str
    unicode_name: str
    taught: bool
    clips: Named = field(default_factory=Named)


@dataclass
class TextFacts:
    """Transcripts as they are taught; as written `cased`, `punctuated`, `tags`, `taken_out`, some `odd_characters`.

    Attributes:
        words, vocabulary, characters: in all, different words, in all.
        distinct: different transcripts.
        words_per_second: of the clips; `rate_histogram` likewise.
        correlation: Spearman's, of clips' seconds and characters; None where they are too few or too much alike to say.
        seconds_per_character, seconds_around: what a text takes: seconds_around + characters * seconds_per_character.
        outliers: the clips that are furthest from it, worst first, `num_outliers` in all.
        cased, punctuated: share of transcripts with capitals beside small letters, with punctuation.
        capitals: share of transcripts that are taught with a capital.
        odd_characters: of a foreign script or class, in few transcripts.
        repeats: transcripts that come up suspiciously often: (transcript, clips).
        tags: marks such as {noise} and (laughs), whose words would be taught.
        taken_out: tags such as <unk> and [noise], which cleaning takes out; their numbers as #.
        unspaced: whether they are of a language that is written without spaces.
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
    """What the headers of `looked` recordings say.

    Attributes:
        kinds: such as `flac, 16 kHz, mono`: clips.
        low_rate: recordings below 16 kHz.
        failed: those that cannot be opened, by reason.
        shorter, longer: those whose length is not the listed one.
    """

    looked: int
    kinds: dict[str, int] = field(default_factory=dict)
    low_rate: Named = field(default_factory=Named)
    failed: dict[str, Named] = field(default_factory=dict)
    shorter: Named = field(default_factory=Named)
    longer: Named = field(default_factory=Named)


@dataclass
class DecodedFacts:
    """What decoding `looked` clips, as training does, has shown. Levels are in dB below full scale (dBFS).

    Attributes:
        skipped: what training would skip, by reason.
        rms, peak: levels; None where no clip could be read.
        rms_histogram: of the level.
        bandwidth_khz: above it there is nothing but noise of quantization.
        clipped, quiet: recordings at full scale for too long, or far too low.
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
    """Target tokens of `looked` transcripts: how many; those over training.max_new_tokens; those not written as taught.

    The last are transcripts that the decoder's tokenizer does not give back: unknown characters, lost spaces.
    """

    looked: int
    tokens: Spread
    too_long: Named = field(default_factory=Named)
    not_given_back: Named = field(default_factory=Named)


@dataclass
class CorpusFacts:
    """A corpus of the mixture (role `train`) or of the evaluation (`eval`).

    Attributes:
        clips, hours: usable by what is listed.
        speakers: how many; None where the corpus does not say.
        top_speaker: share of the clips of the speaker with the most.
        durations, duration_histogram: seconds.
        left_out: clips that were left out when it was indexed, by reason.
        repeated_names: names that stand for several clips.
        contexts: clips with a context; `whole_contexts` of them hold the whole transcript.
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
        """How it is called beside the others."""
        return f"{self.name} ({self.role})"


@dataclass
class Pair:
    """Two clips that are the same recording, as `corpus: name`, and how that is known."""

    first: str
    second: str
    evidence: str


@dataclass
class OverlapFacts:
    """What evaluation and training share.

    Attributes:
        leaked: evaluation clips that are trained on; `num_leaked` of them in all.
        duplicates: recordings that are listed twice in training; `num_duplicates` of them in all.
        all_compared: whether every recording of equal size was compared, or only as many as is quick.
        eval_clips: how many there are.
        known_transcripts: share of evaluation transcripts, of five words or more, that are in the training set too;
            None where there are none so long.
        shared_speakers: speakers of both, by name; None where either does not say.
        eval_speakers: how many speakers the evaluation has; None where it does not say.
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
    """A corpus's part in the mixture: of draws, of all clips, of all hours, of drawn hours; passes over it in a run."""

    name: str
    draws: float
    clips: float
    hours: float
    drawn_hours: float
    passes: float


@dataclass
class MixtureFacts:
    """What `steps` steps of `clips_per_step` clips draw, and the share of padding in their batches.

    Attributes:
        padding: as planned; `padding_random`: batches put together at random; `padding_30s`: each clip padded to 30 s.
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
    """What a person should act on. `severe`: training would refuse, stop, or teach nonsense.

    Attributes:
        kind: one word for scripts, such as `leak`.
        corpus: where; empty for the whole.
        what: what was found.
        todo: what to do.
        clips: the first few, by name.
    """

    kind: str
    severe: bool
    corpus: str
    what: str
    todo: str
    clips: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Report:
    """All that was found out."""

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
