"""From facts to findings. Each judgment is a separate function, with its threshold beside it.

A finding is severe if training would not start, would stop, or would teach nonsense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from . import corpus_findings
from .facts import Finding, Report, clips

BANDWIDTH_GAP = 1.5  # kHz between training and evaluation
KNOWN_TRANSCRIPTS = 0.1
MANY_PASSES, PASSES_RATIO = 20, 10  # passes over a corpus, and their ratio to the passes over the rarest corpus
FEW_EVAL_WORDS = 1000
CAPITALS_GAP = 0.5  # difference between corpora in the share of transcripts with capitals


def find(report: Report) -> list[Finding]:
    """Return the findings, the severe ones first."""
    found: list[Finding] = []
    for judge in OF_ALL:
        found += judge(report)
    for facts in report.corpora:
        for look in corpus_findings.JUDGMENTS:
            found += look(facts, report)
    return sorted(found, key=lambda finding: not finding.severe)


def leaks(report: Report) -> Iterator[Finding]:
    """Evaluation clips that are also training clips, and training clips that are listed twice."""
    overlap = report.overlap
    if overlap is None:
        return
    if overlap.num_leaked:
        pairs = [(pair.first, f"is {pair.second}: {pair.evidence}") for pair in overlap.leaked]
        yield Finding(
            "leak",
            True,
            "",
            f"{overlap.num_leaked:,} of {clips(overlap.eval_clips)} of the evaluation {_are(overlap.num_leaked)} in "
            "the training set.",
            "remove them from one of the two: the model learns these transcripts, so the error rate is too low.",
            pairs,
        )
    if overlap.num_duplicates:
        pairs = [(pair.first, f"is {pair.second}: {pair.evidence}") for pair in overlap.duplicates]
        yield Finding(
            "duplicates",
            False,
            "",
            f"{clips(overlap.num_duplicates)} of the training set {_are(overlap.num_duplicates)} listed twice.",
            "list each recording once; if the two transcripts differ, one of them is wrong.",
            pairs,
        )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def unusable(report: Report) -> Iterator[Finding]:
    """Whether training would stop because it skips too many clips."""
    shares = {share.name: share.draws for share in report.mixture.shares}
    train = [facts for facts in report.corpora if facts.role == "train"]
    decoded = [(shares[facts.name], facts.decoded) for facts in train if facts.decoded is not None]
    skipped = sum(share * found.skipped_share for share, found in decoded)
    if skipped > report.max_skipped_share:
        yield Finding(
            "unusable",
            True,
            "",
            f"{skipped:.0%} of the draws could not be used; training stops above "
            f"data.max_skipped_share={report.max_skipped_share:g}.",
            "replace or remove the recordings that are named below.",
        )


def evaluation(report: Report) -> Iterator[Finding]:
    """Whether error rates will mean what users expect."""
    held = [facts for facts in report.corpora if facts.role == "eval"]
    overlap = report.overlap
    if not held:
        yield Finding(
            "no_evaluation",
            False,
            "",
            "there is no evaluation set.",
            "name one in data.eval_datasets; without it there is no WER.",
        )
        return
    words = sum(facts.text.words for facts in held)
    if words < FEW_EVAL_WORDS:
        margin = 196 * np.sqrt(0.1 * 0.9 / max(words, 1))
        yield Finding(
            "small_evaluation",
            False,
            "",
            f"the evaluation set has {words:,} words: an error rate of 10 % is uncertain by {margin:.1f} points or "
            "more.",
            "use a larger one; smaller differences between runs may be chance.",
        )
    if overlap is not None and overlap.shared_speakers:
        number = len(overlap.shared_speakers)
        yield Finding(
            "shared_speakers",
            False,
            "",
            f"{number:,} of the {overlap.eval_speakers:,} speakers of the evaluation {_are(number)} also in training.",
            "split by speaker, unless the model is only for these speakers.",
            [(speaker, "") for speaker in overlap.shared_speakers[:5]],
        )
    if overlap is not None and (overlap.known_transcripts or 0) > KNOWN_TRANSCRIPTS:
        yield Finding(
            "known_transcripts",
            False,
            "",
            f"{overlap.known_transcripts:.0%} of the longer evaluation transcripts are also training transcripts.",
            "split by sentence: on new sentences the error rate may be higher.",
        )
    if overlap is not None and not overlap.all_compared:
        yield Finding(
            "not_all_compared",
            False,
            "",
            "there are too many recordings with equal size or transcript to compare them all.",
            "there may be more duplicates than are listed here.",
        )


def contrasts(report: Report) -> Iterator[Finding]:
    """Corpora with opposite conventions, or with different recording conditions."""
    capitals = {facts.title: facts.text.capitals for facts in report.corpora}
    low, high = min(capitals, key=capitals.__getitem__), max(capitals, key=capitals.__getitem__)
    if capitals[high] - capitals[low] > CAPITALS_GAP:
        yield Finding(
            "mixed_case",
            True,
            "",
            f"{capitals[high]:.0%} of the transcripts of {high} have capitals, and {capitals[low]:.0%} of {low}.",
            "set data.text_case=lower: with one prompt, mixed labels contradict each other.",
        )
    sides = {}
    for role in ("train", "eval"):
        medians = [
            (facts.decoded.bandwidth_khz.median, facts.clips)
            for facts in report.corpora
            if facts.role == role and facts.decoded is not None and facts.decoded.bandwidth_khz is not None
        ]
        if medians:
            sides[role] = float(np.average([m for m, _ in medians], weights=[n for _, n in medians]))
    if len(sides) == 2 and abs(sides["train"] - sides["eval"]) >= BANDWIDTH_GAP:
        yield Finding(
            "bandwidth_gap",
            False,
            "",
            f"training recordings reach {sides['train']:.1f} kHz, those of the evaluation {sides['eval']:.1f} kHz.",
            "they come from different codecs or devices: add training recordings like those of the evaluation.",
        )


def passes(report: Report) -> Iterator[Finding]:
    """Small corpora with a large weight."""
    fewest = min(share.passes for share in report.mixture.shares)
    for share in report.mixture.shares:
        if share.passes > MANY_PASSES and share.passes > PASSES_RATIO * fewest:
            yield Finding(
                "many_passes",
                False,
                share.name,
                f"each of its clips is drawn {share.passes:,.0f} times in a run.",
                "lower its weight, or training.max_steps: the model will overfit to it.",
            )


OF_ALL: tuple[Callable[[Report], Iterable[Finding]], ...] = (leaks, unusable, evaluation, contrasts, passes)
