"""Findings about one corpus: its transcripts, the clips left out, its audio, its speakers. See `findings`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .facts import CorpusFacts, Finding, Named, Report, clips

# Rank correlation of length and transcript: 0.97 in LibriSpeech, 0.83 in the bundled speech of short phrases; about
# half of that where half of the transcripts belong to other clips.
UNRELATED = 0.55
UNRELATED_CLIPS = 50  # fewer may have it by chance
FAULTS = ("missing", "decode_error", "non_finite", "silent", "duration_mismatch", "empty_text", "bad_row")
WHAT_TO_DO = {
    "missing": "the files are elsewhere or were deleted: correct the paths, or fetch the files again.",
    "decode_error": "these files are damaged, and are skipped: fetch them again.",
    "non_finite": "they hold NaN or infinite samples, and are skipped: write them again from the originals.",
    "silent": "they are silent, and are skipped: record or fetch them again.",
    "duration_mismatch": "they are cut short, and are skipped: fetch them again.",
    "empty_text": "they have no transcript, and are skipped: transcribe them.",
    "bad_row": "these rows of the manifest cannot be used: correct them.",
    "too_short": "they are shorter than data.min_audio_length: check that the durations are in seconds.",
    "too_long": "they are longer than data.max_audio_length (at most 30 s): cut them and their transcripts at pauses.",
}
TELEPHONE = 4.5  # kHz
TOP_SPEAKER = 0.5


def relation(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Transcripts that do not belong to their recordings: all of them, or some."""
    text = facts.text
    if text.correlation is not None and facts.clips >= UNRELATED_CLIPS and text.correlation < UNRELATED:
        yield Finding(
            "unrelated",
            True,
            facts.title,
            f"lengths of recordings and transcripts are hardly related (rank correlation {text.correlation:.2f}).",
            "all or many transcripts belong to other recordings: check the program that wrote the manifest.",
        )
    elif text.num_outliers:
        yield Finding(
            "wrong_length",
            False,
            facts.title,
            f"{clips(text.num_outliers)} whose length does not fit the transcript.",
            "listen to them: the transcript is wrong, or the recording is cut.",
            [
                (one.name, f"{one.seconds:.2f} s, {one.expected_seconds:.2f} s expected: {one.transcript}")
                for one in text.outliers
            ],
        )


def characters(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Unusual characters, and marks of transcribers."""
    for taught, todo in (
        (True, "correct the transcripts: the model learns to write these."),
        (False, "cleaning removes them: if they stand for words, the model does not learn these."),
    ):
        odd = [one for one in facts.text.odd_characters if one.taught == taught]
        if odd:
            examples = [
                (name, f"{one.character if one.character.isprintable() else ' '} ({one.unicode_name}): {note}")
                for one in odd
                for name, note in one.clips.examples[:1]
            ]
            what = f"{len(odd):,} unusual character{'s' * (len(odd) > 1)}"
            where = "" if taught else " in the raw transcripts"
            kind = "odd_characters" if taught else "dropped_characters"
            yield Finding(kind, False, facts.title, f"{what}{where}.", todo, examples[:5])
    for tags, what, todo in (
        (facts.text.tags, ", whose words the model learns as speech", "remove the marks from the transcripts"),
        (facts.text.taken_out, ", which cleaning removes", "if a tag stands for speech, transcribe it"),
    ):
        kind = "marks" if tags is facts.text.tags else "tags"
        for tag, named in sorted(tags.items(), key=lambda item: -item[1].count)[:5]:
            found = f"{clips(named.count)} with {tag}{what}."
            yield Finding(
                kind, False, facts.title, found, f"{todo}, or remove the clips from the manifest.", named.examples
            )


def script(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """A language in which a word error rate says little."""
    if facts.text.unspaced:
        yield Finding(
            "unspaced",
            False,
            facts.title,
            "it is written without spaces between words, so WER counts each character as a word.",
            "use CER; with training.metric_for_best=cer it also chooses the best checkpoint.",
        )


def repeated(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Transcripts and names that repeat too often."""
    for text, named in facts.text.repeats:
        yield Finding(
            "repeated",
            False,
            facts.title,
            f"{clips(named.count)} with the transcript “{text}”.",
            "listen to some of them: a recognizer may have invented this transcript.",
            named.examples,
        )
    if facts.repeated_names.count:
        yield Finding(
            "repeated_names",
            False,
            facts.title,
            f"{facts.repeated_names.count:,} names belong to several clips.",
            "list each recording once.",
            facts.repeated_names.examples,
        )


def lost(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Clips that are left out: at indexing, and at decoding."""
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
        what = f"{named.count:,} of {looked:,} decoded clips cannot be used: {reason}."
        yield Finding("skipped", severe, facts.title, what, WHAT_TO_DO[reason], named.examples)


def headers(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Findings from headers: unreadable files, low rates, lengths that differ from the listed ones."""
    if facts.headers is None:
        return
    found, looked = facts.headers, facts.headers.looked
    decoded = facts.decoded.skipped if facts.decoded is not None else {}
    for reason, named in found.failed.items():
        if reason not in decoded:  # otherwise the finding from decoding names it
            what = f"{named.count:,} of {looked:,} recordings cannot be opened: {reason}."
            severe = named.count > report.max_skipped_share * looked
            yield Finding("unreadable", severe, facts.title, what, WHAT_TO_DO[reason], named.examples)
    if found.low_rate.count:
        yield Finding(
            "low_rate",
            False,
            facts.title,
            f"{found.low_rate.count:,} of {looked:,} recordings have a rate below 16 kHz.",
            "they are used, but lack high frequencies; use originals with a higher rate, if any.",
            found.low_rate.examples,
        )
    if found.shorter.count and "duration_mismatch" not in decoded:
        yield _mismatch(facts, found.shorter, "shorter", "they are cut short, and are skipped: fetch them again.")
    if found.longer.count:
        yield _mismatch(facts, found.longer, "longer", "if a transcript covers only a part, cut the recording.")


def _mismatch(facts: CorpusFacts, named: Named, word: str, todo: str) -> Finding:
    what = f"{clips(named.count)} {word} than listed."
    return Finding(f"{word}_than_listed", False, facts.title, what, todo, named.examples)


def levels(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Findings from decoded recordings: levels and bandwidth."""
    found = facts.decoded
    if found is None or found.bandwidth_khz is None:
        return
    if found.clipped.count:
        yield Finding(
            "clipped",
            False,
            facts.title,
            f"{found.clipped.count:,} of {found.looked:,} decoded clips are clipped (at full scale).",
            "use originals at a lower level; if there are none, the model learns clipped speech too.",
            found.clipped.examples,
        )
    if found.quiet.count:
        yield Finding(
            "quiet",
            False,
            facts.title,
            f"{found.quiet.count:,} of {found.looked:,} decoded clips are very quiet.",
            "listen to them: raise the level of those with speech, and remove the others.",
            found.quiet.examples,
        )
    low = facts.headers.low_rate.count if facts.headers is not None else 0
    if found.bandwidth_khz.median <= TELEPHONE and not low:
        yield Finding(
            "telephone",
            False,
            facts.title,
            f"half of the clips hold nothing above {found.bandwidth_khz.median:g} kHz: telephone speech in 16 kHz.",
            "the model will suit telephone speech only; use originals with a higher rate if there are any.",
        )


def speakers(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """One speaker in most of a corpus."""
    if facts.role == "train" and facts.speakers is not None and (facts.top_speaker or 0) > TOP_SPEAKER:
        speaker = "one speaker" if facts.speakers == 1 else f"one of {facts.speakers:,} speakers"
        yield Finding(
            "one_speaker",
            False,
            facts.title,
            f"{facts.top_speaker:.0%} of the clips are of {speaker}.",
            "the model will recognize this speaker better than others; add speakers.",
        )


def tokens(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Transcripts that the decoder cannot write, or cannot write to the end."""
    if facts.tokens is None:
        return
    if facts.tokens.too_long.count:
        yield Finding(
            "too_many_tokens",
            False,
            facts.title,
            f"{clips(facts.tokens.too_long.count)} longer than training.max_new_tokens.",
            "raise training.max_new_tokens: words beyond this limit count as deleted.",
            facts.tokens.too_long.examples,
        )
    if facts.tokens.not_given_back.count:
        named = facts.tokens.not_given_back
        yield Finding(
            "not_given_back",
            named.count > report.max_skipped_share * facts.tokens.looked,
            facts.title,
            f"{clips(named.count)} whose transcript the decoder's tokenizer changes.",
            "the model learns another text than the transcript: correct these, or use another decoder.",
            named.examples,
        )


def contexts(facts: CorpusFacts, report: Report) -> Iterator[Finding]:
    """Contexts that hold the transcript."""
    if (named := facts.whole_contexts).count:
        what = f"{clips(named.count)} whose context holds the whole transcript."
        todo = "the model learns to copy the context: give only what is known before the recording, such as names."
        yield Finding("given_away", named.count > facts.contexts / 2, facts.title, what, todo, named.examples)


JUDGMENTS: tuple[Callable[[CorpusFacts, Report], Iterable[Finding]], ...] = (
    *(relation, lost, headers, levels),
    *(characters, script, repeated, speakers, tokens, contexts),
)
