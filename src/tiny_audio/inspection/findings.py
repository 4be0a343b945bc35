"""From facts to findings. Each judgment is a separate function, with its threshold above all of them.

A finding is severe if training would not start, would stop, or would teach nonsense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from .facts import CorpusFacts, Finding, Named, Report, clips

BANDWIDTH_GAP = 1.5  # kHz between training and evaluation
KNOWN_TRANSCRIPTS = 0.1
MANY_PASSES, PASSES_RATIO = 20, 10  # passes over a corpus, and their ratio to the passes over the rarest corpus
FEW_EVAL_WORDS = 1000
CAPITALS_GAP = 0.5  # difference between corpora in the share of transcripts with capitals
# Rank correlation of length and transcript: 0.97 in LibriSpeech, 0.83 in the bundled speech of short phrases; about
# half of that where half of the transcripts belong to other clips.
UNRELATED = 0.55
UNRELATED_CLIPS = 50  # fewer may have it by chance
TELEPHONE = 4.5  # kHz
TOP_SPEAKER = 0.5
FAULTS = ("missing", "decode_error", "non_finite", "silent", "duration_mismatch", "empty_text", "bad_row")
CUT_SHORT = "they are cut short, and are skipped: fetch them again."
WHAT_TO_DO = {
    "missing": "the files are elsewhere or were deleted: correct the paths, or fetch the files again.",
    "decode_error": "these files are damaged, and are skipped: fetch them again.",
    "non_finite": "they hold NaN or infinite samples, and are skipped: write them again from the originals.",
    "silent": "they are silent, and are skipped: record or fetch them again.",
    "duration_mismatch": CUT_SHORT,
    "empty_text": "they have no transcript, and are skipped: transcribe them.",
    "bad_row": "these rows of the manifest cannot be used: correct them.",
    "too_short": "they are shorter than data.min_audio_length: check that the durations are in seconds.",
    "too_long": "they are longer than data.max_audio_length (at most 30 s): cut them and their transcripts at pauses.",
}


def find(report: Report) -> list[Finding]:
    """Return the findings, the severe ones first."""
    found = [finding for judge in OF_ALL for finding in judge(report)]
    for facts in report.corpora:
        found += [replace(one, corpus=facts.title) for judge in OF_A_CORPUS for one in judge(facts, report)]
    return sorted(found, key=lambda finding: not finding.severe)


def about(kind: str, named: Named, what: str, todo: str, severe: bool = False) -> Iterator[Finding]:
    """A finding about some clips, if there are any."""
    if named.count:
        yield Finding(kind, what, todo, named.examples, severe=severe)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def leaks(report: Report) -> Iterator[Finding]:
    """Evaluation clips that are also training clips, and training clips that are listed twice."""
    overlap = report.overlap
    if overlap is not None and overlap.num_leaked:
        yield Finding(
            "leak",
            f"{overlap.num_leaked:,} of {clips(overlap.eval_clips)} of the evaluation {_are(overlap.num_leaked)} in "
            "the training set.",
            "remove them from one of the two: the model learns these transcripts, so the error rate is too low.",
            [(pair.first, f"is {pair.second}: {pair.evidence}") for pair in overlap.leaked],
            severe=True,
        )
    if overlap is not None and overlap.num_duplicates:
        yield Finding(
            "duplicates",
            f"{clips(overlap.num_duplicates)} of the training set {_are(overlap.num_duplicates)} listed twice.",
            "list each recording once; if the two transcripts differ, one of them is wrong.",
            [(pair.first, f"is {pair.second}: {pair.evidence}") for pair in overlap.duplicates],
        )


def unusable(report: Report) -> Iterator[Finding]:
    """Whether training would stop because it skips too many clips."""
    shares = {share.name: share.draws for share in report.mixture.shares}
    train = [facts for facts in report.corpora if facts.role == "train" and facts.decoded is not None]
    skipped = sum(shares[facts.name] * facts.decoded.skipped_share for facts in train if facts.decoded is not None)
    if skipped > report.max_skipped_share:
        yield Finding(
            "unusable",
            f"{skipped:.0%} of the draws could not be used; training stops above "
            f"data.max_skipped_share={report.max_skipped_share:g}.",
            "replace or remove the recordings that are named below.",
            severe=True,
        )


def evaluation(report: Report) -> Iterator[Finding]:
    """Whether error rates will mean what users expect."""
    held = [facts for facts in report.corpora if facts.role == "eval"]
    if not held:
        what, todo = "there is no evaluation set.", "name one in data.eval_datasets; without it there is no WER."
        yield Finding("no_evaluation", what, todo)
        return
    words = sum(facts.text.words for facts in held)
    if words < FEW_EVAL_WORDS:
        margin = 196 * np.sqrt(0.1 * 0.9 / max(words, 1))
        yield Finding(
            "small_evaluation",
            f"the evaluation set has {words:,} words: an error rate of 10 % is uncertain by {margin:.1f} points or "
            "more.",
            "use a larger one; smaller differences between runs may be chance.",
        )
    overlap = report.overlap
    if overlap is None:
        return
    if overlap.shared_speakers:
        number = len(overlap.shared_speakers)
        yield Finding(
            "shared_speakers",
            f"{number:,} of the {overlap.eval_speakers:,} speakers of the evaluation {_are(number)} also in training.",
            "split by speaker, unless the model is only for these speakers.",
            [(speaker, "") for speaker in overlap.shared_speakers[:5]],
        )
    if (overlap.known_transcripts or 0) > KNOWN_TRANSCRIPTS:
        yield Finding(
            "known_transcripts",
            f"{overlap.known_transcripts:.0%} of the longer evaluation transcripts are also training transcripts.",
            "split by sentence: on new sentences the error rate may be higher.",
        )
    if not overlap.all_compared:
        yield Finding(
            "not_all_compared",
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
            f"{capitals[high]:.0%} of the transcripts of {high} have capitals, and {capitals[low]:.0%} of {low}.",
            "set data.text_case=lower: with one prompt, mixed labels contradict each other.",
            severe=True,
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
                f"each of its clips is drawn {share.passes:,.0f} times in a run.",
                "lower its weight, or training.max_steps: the model will overfit to it.",
                corpus=share.name,
            )


def relation(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Transcripts that do not belong to their recordings: all of them, or some."""
    text = facts.text
    if text.correlation is not None and facts.clips >= UNRELATED_CLIPS and text.correlation < UNRELATED:
        yield Finding(
            "unrelated",
            f"lengths of recordings and transcripts are hardly related (rank correlation {text.correlation:.2f}).",
            "all or many transcripts belong to other recordings: check the program that wrote the manifest.",
            severe=True,
        )
    elif text.num_outliers:
        yield Finding(
            "wrong_length",
            f"{clips(text.num_outliers)} whose length does not fit the transcript.",
            "listen to them: the transcript is wrong, or the recording is cut.",
            [
                (one.name, f"{one.seconds:.2f} s, {one.expected_seconds:.2f} s expected: {one.transcript}")
                for one in text.outliers
            ],
        )


def characters(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Unusual characters, and marks of transcribers."""
    for taught, kind, where, todo in (
        (True, "odd_characters", "", "correct the transcripts: the model learns to write these."),
        (
            False,
            "dropped_characters",
            " in the raw transcripts",
            "cleaning removes them: if they stand for words, the model does not learn these.",
        ),
    ):
        odd = [one for one in facts.text.odd_characters if one.taught == taught]
        examples = [
            (name, f"{one.character if one.character.isprintable() else ' '} ({one.unicode_name}): {note}")
            for one in odd
            for name, note in one.clips.examples[:1]
        ]
        if odd:
            what = f"{len(odd):,} unusual character{'s' * (len(odd) > 1)}{where}."
            yield Finding(kind, what, todo, examples[:5])
    for kind, tags, what, todo in (
        ("marks", facts.text.tags, "whose words the model learns as speech", "remove the marks from the transcripts"),
        ("tags", facts.text.taken_out, "which cleaning removes", "if a tag stands for speech, transcribe it"),
    ):
        for tag, named in sorted(tags.items(), key=lambda item: -item[1].count)[:5]:
            found = f"{clips(named.count)} with {tag}, {what}."
            yield from about(kind, named, found, f"{todo}, or remove the clips from the manifest.")


def script(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """A language in which a word error rate says little."""
    if facts.text.unspaced:
        yield Finding(
            "unspaced",
            "it is written without spaces between words, so WER counts each character as a word.",
            "use CER; with training.metric_for_best=cer it also chooses the best checkpoint.",
        )


def repeated(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Transcripts and names that repeat too often."""
    for text, named in facts.text.repeats:
        what = f"{clips(named.count)} with the transcript “{text}”."
        todo = "listen to some of them: a recognizer may have invented this transcript."
        yield from about("repeated", named, what, todo)
    names = facts.repeated_names
    what = f"{names.count:,} names belong to several clips."
    yield from about("repeated_names", names, what, "list each recording once.")


def lost(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Clips that are left out: at indexing, and at decoding."""
    listed = facts.clips + sum(named.count for named in facts.left_out.values())
    faulty = sum(named.count for reason, named in facts.left_out.items() if reason in FAULTS)
    for reason, named in facts.left_out.items():
        severe = reason in FAULTS and faulty > report.max_skipped_share * listed
        what = f"{named.count:,} of {listed:,} clips left out: {reason}."
        yield from about("left_out", named, what, WHAT_TO_DO[reason], severe)
    if facts.decoded is not None:
        severe = facts.decoded.skipped_share > report.max_skipped_share
        for reason, named in facts.decoded.skipped.items():
            what = f"{named.count:,} of {facts.decoded.looked:,} decoded clips cannot be used: {reason}."
            yield from about("skipped", named, what, WHAT_TO_DO[reason], severe)


def headers(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Findings from headers: unreadable files, low rates, lengths that differ from the listed ones."""
    if facts.headers is None:
        return
    found, looked = facts.headers, facts.headers.looked
    decoded = facts.decoded.skipped if facts.decoded is not None else {}  # the findings from decoding name these
    for reason, named in found.failed.items():
        if reason not in decoded:
            what = f"{named.count:,} of {looked:,} recordings cannot be opened: {reason}."
            severe = named.count > report.max_skipped_share * looked
            yield from about("unreadable", named, what, WHAT_TO_DO[reason], severe)
    what = f"{found.low_rate.count:,} of {looked:,} recordings have a rate below 16 kHz."
    todo = "they are used, but lack high frequencies; use originals with a higher rate, if any."
    yield from about("low_rate", found.low_rate, what, todo)
    if "duration_mismatch" not in decoded:
        what = f"{clips(found.shorter.count)} shorter than listed."
        yield from about("shorter_than_listed", found.shorter, what, CUT_SHORT)
    what = f"{clips(found.longer.count)} longer than listed."
    todo = "if a transcript covers only a part, cut the recording."
    yield from about("longer_than_listed", found.longer, what, todo)


def levels(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Findings from decoded recordings: levels and bandwidth."""
    found = facts.decoded
    if found is None or found.bandwidth_khz is None:
        return
    what = f"{found.clipped.count:,} of {found.looked:,} decoded clips are clipped (at full scale)."
    todo = "use originals at a lower level; if there are none, the model learns clipped speech too."
    yield from about("clipped", found.clipped, what, todo)
    what = f"{found.quiet.count:,} of {found.looked:,} decoded clips are very quiet."
    todo = "listen to them: raise the level of those with speech, and remove the others."
    yield from about("quiet", found.quiet, what, todo)
    low_rate = facts.headers is not None and facts.headers.low_rate.count > 0
    if found.bandwidth_khz.median <= TELEPHONE and not low_rate:
        yield Finding(
            "telephone",
            f"half of the clips hold nothing above {found.bandwidth_khz.median:g} kHz: telephone speech in 16 kHz.",
            "the model will suit telephone speech only; use originals with a higher rate if there are any.",
        )


def speakers(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """One speaker in most of a corpus."""
    if facts.role == "train" and facts.speakers is not None and (facts.top_speaker or 0) > TOP_SPEAKER:
        speaker = "one speaker" if facts.speakers == 1 else f"one of {facts.speakers:,} speakers"
        what = f"{facts.top_speaker:.0%} of the clips are of {speaker}."
        yield Finding("one_speaker", what, "the model will recognize this speaker better than others; add speakers.")


def tokens(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Transcripts that the decoder cannot write, or cannot write to the end."""
    if facts.tokens is None:
        return
    too_long, changed = facts.tokens.too_long, facts.tokens.not_given_back
    what = f"{clips(too_long.count)} longer than training.max_new_tokens."
    todo = "raise training.max_new_tokens: words beyond this limit count as deleted."
    yield from about("too_many_tokens", too_long, what, todo)
    what = f"{clips(changed.count)} whose transcript the decoder's tokenizer changes."
    todo = "the model learns another text than the transcript: correct these, or use another decoder."
    severe = changed.count > report.max_skipped_share * facts.tokens.looked
    yield from about("not_given_back", changed, what, todo, severe)


def contexts(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Contexts that hold the transcript."""
    named = facts.whole_contexts
    what = f"{clips(named.count)} whose context holds the whole transcript."
    todo = "the model learns to copy the context: give only what is known before the recording, such as names."
    yield from about("given_away", named, what, todo, severe=named.count > facts.contexts / 2)


OF_ALL: tuple[Callable[[Report], Iterator[Finding]], ...] = (leaks, unusable, evaluation, contrasts, passes)
OF_A_CORPUS: tuple[Callable[[CorpusFacts, Report], Iterator[Finding]], ...] = (
    *(relation, lost, headers, levels),
    *(characters, script, repeated, speakers, tokens, contexts),
)
