"""From facts to what a person should act on. Each judgment is a function of its own: its threshold stands beside it.

Severe are those with which training would refuse to start, stop, or teach nonsense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from .facts import CorpusFacts, Finding, Named, Report

# Rank correlation of length and transcript: 0.97 in LibriSpeech, 0.83 in the bundled speech of short phrases; where
# half of the transcripts are others', about half of that.
UNRELATED = 0.55
UNRELATED_CLIPS = 50  # fewer may have it by chance
FAULTS = ("missing", "decode_error", "non_finite", "silent", "duration_mismatch", "empty_text", "bad_row")
WHAT_TO_DO = {
    "missing": "the files are elsewhere or were deleted: mend the paths, or fetch them again.",
    "decode_error": "these files are damaged: fetch them again, or leave them be, they are skipped.",
    "non_finite": "they hold NaN or infinite samples: write them anew from the originals.",
    "silent": "nothing is in them: record or fetch them again; they are skipped.",
    "duration_mismatch": "they are cut short: fetch them again; they are skipped.",
    "empty_text": "nothing is left to teach: transcribe them, or leave them be.",
    "bad_row": "these rows of the manifest cannot be used: mend them.",
    "too_short": "data.min_audio_length decides; are the durations in seconds?",
    "too_long": "data.max_audio_length decides (at most 30 s): cut them at pauses, each piece with its own words.",
}
BANDWIDTH_GAP = 1.5  # kHz between training and evaluation
TELEPHONE = 4.5  # kHz
KNOWN_TRANSCRIPTS = 0.1
MANY_PASSES, PASSES_RATIO = 20, 10  # a corpus comes round so often, and so many times as often as the rarest
FEW_EVAL_WORDS = 1000
TOP_SPEAKER = 0.5
CAPITALS_GAP = 0.5  # difference between corpora in the share of transcripts with capitals


def find(report: Report) -> list[Finding]:
    """Return what to act on, the severe first."""
    found: list[Finding] = []
    for judge in OF_ALL:
        found += judge(report)
    for facts in report.corpora:
        for look in OF_A_CORPUS:
            found += look(facts, report)
    return sorted(found, key=lambda finding: not finding.severe)


def clips(count: int) -> str:
    """Write a number of clips."""
    return f"{count:,} clip{'' if count == 1 else 's'}"


def leaks(report: Report) -> Iterator[Finding]:
    """Evaluation clips that are trained on, and training clips that are listed twice."""
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
            "take them out of one of the two: the error rate would be of what was learned by heart.",
            pairs,
        )
    if overlap.num_duplicates:
        pairs = [(pair.first, f"is {pair.second}: {pair.evidence}") for pair in overlap.duplicates]
        yield Finding(
            "duplicates",
            False,
            "",
            f"{clips(overlap.num_duplicates)} of the training set {_are(overlap.num_duplicates)} there once more.",
            "list each recording once; where their transcripts differ, one of them is wrong.",
            pairs,
        )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def unusable(report: Report) -> Iterator[Finding]:
    """Whether training would stop for the clips that it had to skip."""
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
            "mend the recordings that are named below.",
        )


def evaluation(report: Report) -> Iterator[Finding]:
    """Whether error rates will say what people take them to say."""
    held = [facts for facts in report.corpora if facts.role == "eval"]
    overlap = report.overlap
    if not held:
        yield Finding(
            "no_evaluation", False, "", "there is no evaluation set.", "name one in data.eval_datasets, or no WER."
        )
        return
    words = sum(facts.text.words for facts in held)
    if words < FEW_EVAL_WORDS:
        margin = 196 * np.sqrt(0.1 * 0.9 / max(words, 1))
        yield Finding(
            "small_evaluation",
            False,
            "",
            f"the evaluation set has {words:,} words: an error rate of 10 % is known to {margin:.1f} points at best.",
            "hold out more; smaller differences between runs are chance.",
        )
    if overlap is not None and overlap.shared_speakers:
        number = len(overlap.shared_speakers)
        yield Finding(
            "shared_speakers",
            False,
            "",
            f"{number:,} of the {overlap.eval_speakers:,} speakers of the evaluation speak{'s' * (number == 1)} in "
            "training too.",
            "split by speaker, unless it is for these very people.",
            [(speaker, "") for speaker in overlap.shared_speakers[:5]],
        )
    if overlap is not None and (overlap.known_transcripts or 0) > KNOWN_TRANSCRIPTS:
        yield Finding(
            "known_transcripts",
            False,
            "",
            f"{overlap.known_transcripts:.0%} of the longer evaluation transcripts are training transcripts too.",
            "split by sentence, or the error rate says little of sentences that are new.",
        )
    if overlap is not None and not overlap.all_compared:
        yield Finding(
            "not_all_compared",
            False,
            "",
            "there are too many recordings of equal size or transcript to compare them all.",
            "what is said of duplicates is of a part.",
        )


def contrasts(report: Report) -> Iterator[Finding]:
    """Corpora that teach opposite things, or are recorded unlike each other."""
    capitals = {facts.title: facts.text.capitals for facts in report.corpora}
    low, high = min(capitals, key=capitals.__getitem__), max(capitals, key=capitals.__getitem__)
    if capitals[high] - capitals[low] > CAPITALS_GAP:
        yield Finding(
            "mixed_case",
            True,
            "",
            f"{capitals[high]:.0%} of the transcripts of {high} have capitals, and {capitals[low]:.0%} of {low}.",
            "data.text_case=lower: mixed labels under one prompt contradict each other.",
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
            "they come from different codecs or devices: expect an error rate of the harder kind, or match them.",
        )


def rounds(report: Report) -> Iterator[Finding]:
    """Small corpora of a large weight."""
    fewest = min(share.passes for share in report.mixture.shares)
    for share in report.mixture.shares:
        if share.passes > MANY_PASSES and share.passes > PASSES_RATIO * fewest:
            yield Finding(
                "many_passes",
                False,
                share.name,
                f"each of its clips is drawn {share.passes:,.0f} times in a run.",
                "lower its weight, or training.max_steps: it will be learned by heart.",
            )


def relation(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Transcripts that are not those of their recordings: all of them, or some."""
    text = facts.text
    if text.correlation is not None and facts.clips >= UNRELATED_CLIPS and text.correlation < UNRELATED:
        yield Finding(
            "unrelated",
            True,
            facts.title,
            "long recordings have short transcripts nearly as often as long ones (rank correlation "
            f"{text.correlation:.2f}).",
            "all or many transcripts are those of other recordings: look at how the manifest was made.",
        )
    elif text.num_outliers:
        yield Finding(
            "wrong_length",
            False,
            facts.title,
            f"{clips(text.num_outliers)} of a length that does not fit the transcript.",
            "listen to them: the transcript is wrong, or the recording cut.",
            [
                (one.name, f"{one.seconds:.2f} s for what takes {one.expected_seconds:.2f} s: {one.transcript}")
                for one in text.outliers
            ],
        )


def characters(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Characters out of the ordinary, and marks of transcribers."""
    for taught, todo in (
        (True, "correct the transcripts: the model is taught to write these."),
        (False, "cleaning drops them; were they words, nobody will learn them."),
    ):
        odd = [one for one in facts.text.odd_characters if one.taught == taught]
        if odd:
            examples = [
                (name, f"{one.character if one.character.isprintable() else ' '} ({one.unicode_name}): {note}")
                for one in odd
                for name, note in one.clips.examples[:1]
            ]
            what = f"{len(odd):,} character{'s' * (len(odd) > 1)} out of the ordinary"
            where = "" if taught else " in the transcripts as they are written"
            kind = "odd_characters" if taught else "dropped_characters"
            yield Finding(kind, False, facts.title, f"{what}{where}.", todo, examples[:5])
    for tags, what, todo in (
        (facts.text.tags, ", whose words are taught as if they were said", "take the marks out of the transcripts"),
        (facts.text.taken_out, ", which cleaning takes out", "where a tag stands for words that were said, write them"),
    ):
        kind = "marks" if tags is facts.text.tags else "tags"
        for tag, named in sorted(tags.items(), key=lambda item: -item[1].count)[:5]:
            said = f"{clips(named.count)} with {tag}{what}."
            yield Finding(
                kind, False, facts.title, said, f"{todo}, or take the clips out of the manifest.", named.examples
            )


def script(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """A language in which a rate of word errors says little."""
    if facts.text.unspaced:
        yield Finding(
            "unspaced",
            False,
            facts.title,
            "it is written without spaces between words: CER is the figure, WER counts each character as a word.",
            "read CER; with training.metric_for_best=cer it also chooses the best checkpoint.",
        )


def repeated(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Transcripts, and names, that come up too often."""
    for text, named in facts.text.repeats:
        yield Finding(
            "repeated",
            False,
            facts.title,
            f"{clips(named.count)} with the transcript “{text}”.",
            "listen to some: a transcript that a machine made up comes again and again.",
            named.examples,
        )
    if facts.repeated_names.count:
        yield Finding(
            "repeated_names",
            False,
            facts.title,
            f"{facts.repeated_names.count:,} names stand for several clips.",
            "list each recording once.",
            facts.repeated_names.examples,
        )


def lost(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Clips that are left out: when indexed, and when decoded."""
    listed = facts.clips + sum(named.count for named in facts.left_out.values())
    faulty = sum(named.count for reason, named in facts.left_out.items() if reason in FAULTS)
    for reason, named in facts.left_out.items():
        severe = reason in FAULTS and faulty > report.max_skipped_share * listed
        what = f"{named.count:,} of {listed:,} clips left out: {reason}."
        yield Finding("left_out", severe, facts.title, what, WHAT_TO_DO[reason], named.examples)
    if facts.decoded is None:
        return
    share, looked = facts.decoded.skipped_share, facts.decoded.looked
    for reason, named in facts.decoded.skipped.items():
        severe = share > report.max_skipped_share
        what = f"{named.count:,} of {looked:,} decoded clips of no use: {reason}."
        yield Finding("skipped", severe, facts.title, what, WHAT_TO_DO[reason], named.examples)


def headers(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """What headers tell: unreadable files, low rates, lengths that are not the listed ones."""
    if facts.headers is None:
        return
    found, looked = facts.headers, facts.headers.looked
    decoded = facts.decoded.skipped if facts.decoded is not None else {}
    for reason, named in found.failed.items():
        if reason not in decoded:  # else it is told there
            what = f"{named.count:,} of {looked:,} recordings cannot be opened: {reason}."
            severe = named.count > report.max_skipped_share * looked
            yield Finding("unreadable", severe, facts.title, what, WHAT_TO_DO[reason], named.examples)
    if found.low_rate.count:
        yield Finding(
            "low_rate",
            False,
            facts.title,
            f"{found.low_rate.count:,} of {looked:,} recordings below 16 kHz.",
            "they are used, but sound muffled; take better originals where there are any.",
            found.low_rate.examples,
        )
    if found.shorter.count and "duration_mismatch" not in decoded:
        yield _mismatch(facts, found.shorter, "shorter", "they are cut short, and are skipped: fetch them again.")
    if found.longer.count:
        yield _mismatch(facts, found.longer, "longer", "is the transcript that of a part? Then cut the recordings.")


def _mismatch(facts: CorpusFacts, named: Named, word: str, todo: str) -> Finding:
    what = f"{clips(named.count)} {word} than listed."
    return Finding(f"{word}_than_listed", False, facts.title, what, todo, named.examples)


def levels(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """What decoding tells of the sound."""
    found = facts.decoded
    if found is None or found.bandwidth_khz is None:
        return
    if found.clipped.count:
        yield Finding(
            "clipped",
            False,
            facts.title,
            f"{found.clipped.count:,} of {found.looked:,} decoded clips at full scale: clipped.",
            "take originals at a lower level; if there are none, the model learns to read clipped speech too.",
            found.clipped.examples,
        )
    if found.quiet.count:
        yield Finding(
            "quiet",
            False,
            facts.title,
            f"{found.quiet.count:,} of {found.looked:,} decoded clips very quiet.",
            "is there speech in them? Listen; raise the level of what is good.",
            found.quiet.examples,
        )
    low = facts.headers.low_rate.count if facts.headers is not None else 0
    if found.bandwidth_khz.median <= TELEPHONE and not low:
        yield Finding(
            "telephone",
            False,
            facts.title,
            f"half of the clips hold nothing above {found.bandwidth_khz.median:g} kHz: telephone speech in 16 kHz.",
            "good for telephones only; take better originals where there are any.",
        )


def voices(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """One speaker who speaks most of a corpus."""
    if facts.role == "train" and facts.speakers is not None and (facts.top_speaker or 0) > TOP_SPEAKER:
        who = "one speaker" if facts.speakers == 1 else f"one of {facts.speakers:,} speakers"
        yield Finding(
            "one_speaker",
            False,
            facts.title,
            f"{facts.top_speaker:.0%} of the clips are of {who}.",
            "the model will know this voice better than any other; add voices.",
        )


def tokens(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Transcripts that the decoder cannot write, or not whole."""
    if facts.tokens is None:
        return
    if facts.tokens.too_long.count:
        yield Finding(
            "too_many_tokens",
            False,
            facts.title,
            f"{clips(facts.tokens.too_long.count)} longer than training.max_new_tokens.",
            "raise training.max_new_tokens: what is beyond counts as deleted.",
            facts.tokens.too_long.examples,
        )
    if facts.tokens.not_given_back.count:
        named = facts.tokens.not_given_back
        yield Finding(
            "not_given_back",
            named.count > report.max_skipped_share * facts.tokens.looked,
            facts.title,
            f"{clips(named.count)} whose transcript the decoder's tokenizer does not give back.",
            "the model is taught something else than the transcript: correct these, or take another decoder.",
            named.examples,
        )


def contexts(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Contexts that say what is to be heard."""
    if (named := facts.whole_contexts).count:
        what = f"{clips(named.count)} whose context holds the whole transcript."
        todo = "the model learns to copy instead of to listen: give what is known before, such as names."
        yield Finding("given_away", named.count > facts.contexts / 2, facts.title, what, todo, named.examples)


OF_ALL: tuple[Callable[[Report], Iterable[Finding]], ...] = (leaks, unusable, evaluation, contrasts, rounds)
OF_A_CORPUS: tuple[Callable[[CorpusFacts, Report], Iterable[Finding]], ...] = (
    *(relation, lost, headers, levels),
    *(characters, script, repeated, voices, tokens, contexts),
)
