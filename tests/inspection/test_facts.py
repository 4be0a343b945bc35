"""The measures that findings rest on, each against what is known of its input."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr
from spoken import make_corpus, speech, write_corpus

from clips import write
from tiny_audio.audio import AudioError, header_seconds, read_header
from tiny_audio.cli.data import configure, parse_check
from tiny_audio.config import Config, TrainingConfig
from tiny_audio.data.plan import SamplingPlan
from tiny_audio.inspection.check import duration_edges, look_at_mixture, open_role
from tiny_audio.inspection.facts import CorpusFacts, Histogram, Report
from tiny_audio.inspection.findings import relation
from tiny_audio.inspection.overlap import look_at_overlap, loudness, same_files
from tiny_audio.inspection.recordings import bandwidth, measure, sample_rows
from tiny_audio.inspection.report import bars
from tiny_audio.inspection.texts import (
    fit_seconds,
    look_at_raw_texts,
    look_at_texts,
    odd_characters,
    ranks,
    repeats,
)
from tiny_audio.training.console import format_number


@pytest.fixture
def sources(tmp_path):
    train, dev = make_corpus(tmp_path, train=40, dev=12)
    config = configure(parse_check(write_corpus(tmp_path, train, dev)))
    config.paths.cache_dir = str(tmp_path / "cache")
    return [[one.source for one in open_role(config, role)] for role in ("train", "eval")]


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000])
def test_bandwidth_is_half_the_rate_that_a_recording_once_had(rate):
    wave = speech(3, 0)
    if rate < 16_000:
        wave = soxr.resample(soxr.resample(wave, 16_000, rate), rate, 16_000)
    assert bandwidth(wave) == pytest.approx(rate / 2000, abs=0.5)


def test_levels():
    wave = np.full(16_000, 0.1, dtype=np.float32)
    wave[::100] = 1.0
    rms, peak, clipped, _ = measure(wave)
    assert rms == pytest.approx(10 * np.log10(0.99 * 0.01 + 0.01))
    assert (peak, clipped) == (pytest.approx(0), pytest.approx(0.01))


@pytest.mark.parametrize(
    ("name", "options", "format"),
    [("a.wav", {}, "wav"), ("a.flac", {}, "flac"), ("a.ogg", {}, "vorbis"), ("a.mp3", {"format": "MP3"}, "mp3"),
     ("a.opus", {"format": "OGG", "subtype": "OPUS"}, "opus")],
)  # fmt: skip
def test_headers(tmp_path, name, options, format):
    path = write(tmp_path / name, 1.5, **options)
    for source in (path, path.read_bytes()):
        header = read_header(source)
        assert (header.format, header.sample_rate, header.channels) == (format, 16_000, 1)
        assert header.seconds == header_seconds(source) == pytest.approx(1.5, abs=0.1)
    with pytest.raises(AudioError):
        read_header(tmp_path / "absent.wav")


def test_a_few_wrong_transcripts_do_not_bend_the_line():
    rng = np.random.default_rng(0)
    characters = rng.integers(10, 200, 500)
    seconds = (0.5 + 0.06 * characters) * np.exp(rng.normal(0, 0.1, 500))
    seconds[:40] = rng.uniform(0.5, 20, 40)
    around, per_character = fit_seconds(seconds, characters)
    assert around == pytest.approx(0.5, abs=0.15)
    assert per_character == pytest.approx(0.06, rel=0.05)


def corpus_of(wrong: int, long: bool) -> tuple[CorpusFacts, np.ndarray]:
    """500 clips, some of them with transcripts of another length, or one of them with a book; and which those are."""
    rng = np.random.default_rng(0)
    characters = rng.integers(10, 200, 500)
    seconds = (0.5 + 0.06 * characters) * np.exp(rng.normal(0, 0.1, 500))
    which = np.argsort(-abs(characters - 105), kind="stable")[:wrong] if wrong < 50 else rng.permutation(500)[:wrong]
    characters[which] = 30_000 if long else 210 - characters[which] if wrong < 50 else characters[np.roll(which, 1)]
    texts = [("word " * 6001)[:count] for count in characters.tolist()]
    facts, _ = look_at_texts(seconds, texts, [f"clip{i}" for i in range(500)])
    return SimpleNamespace(text=facts, clips=500, title="corpus"), which  # type: ignore[return-value]


@pytest.mark.parametrize(("wrong", "long"), [(0, False), (1, False), (1, True), (5, False), (250, False)])
def test_wrong_transcripts_are_named_and_only_many_are_the_whole_corpus(wrong, long):
    facts, which = corpus_of(wrong, long)
    found = list(relation(facts, Report([], None, None, 0.1, None)))  # type: ignore[arg-type]
    named = {int(name.removeprefix("clip")) for finding in found for name, _ in finding.clips}
    if wrong == 0:
        assert found == []
    elif wrong == 250:
        assert [(finding.kind, finding.severe) for finding in found] == [("unrelated", True)]
    else:
        assert [(finding.kind, finding.severe) for finding in found] == [("wrong_length", False)]
        assert named == set(which.tolist())


def test_one_text_that_is_far_off_does_not_make_lengths_differ():
    seconds = np.random.default_rng(0).uniform(0.3, 1.5, 200)
    texts = ["zero", "nine"] * 99 + ["zero", "nine " * 2000]
    facts, _ = look_at_texts(seconds, texts, [f"{i}" for i in range(200)])
    assert facts.correlation is None


def test_ranks_share_ties():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


@pytest.mark.parametrize(
    ("number", "written"), [(10_000.4, "10,000"), (2.5, "2.5"), (0.01234, "0.0123"), (99.6, "99.6")]
)
def test_how_often_is_written_as_people_do(number, written):
    assert format_number(number) == written


def test_texts_that_are_too_much_alike_say_nothing_of_lengths():
    """Digits: one word each, and a second of silence more or less."""
    seconds = np.random.default_rng(0).uniform(0.3, 1.5, 200)
    facts, outliers = look_at_texts(seconds, ["zero", "nine"] * 100, [f"{i}" for i in range(200)])
    assert facts.correlation is None
    assert not outliers.any()
    assert facts.repeats == [], "each of two transcripts is half of the corpus"


@pytest.mark.parametrize(
    ("usual", "rare", "odd"),
    [
        ("the river", "café 7 ж", {"é", "7", "ж"}),
        ("мир и дом", "щи the", {"t", "h", "e"}),
        ("나무 하늘", "뷁 дж", {"д", "ж"}),
        ("川 かわ カワ", "鬱 ok", {"o", "k"}),
    ],
)
def test_odd_characters_are_of_another_script_than_the_corpus(usual, rare, odd):
    texts, names = [usual] * 999 + [rare], [f"{i}" for i in range(1000)]
    found = odd_characters(texts, names)
    assert {one.character for one in found} == odd
    assert {one.clips.examples[0][0] for one in found} == {"999"}
    assert odd_characters([usual, rare] * 500, names) == [], "in half of the transcripts they belong to the corpus"


def test_repeats_are_those_beyond_the_usual():
    from collections import Counter

    texts = [f"sentence {i}" for i in range(300)] + ["yes"] * 12
    names = [f"{i}" for i in range(312)]
    [(text, named)] = repeats(Counter(texts), texts, names)
    assert (text, named.count, named.examples[0][0]) == ("yes", 12, "300")


def test_marks_of_transcribers_are_told_from_speech():
    facts, _ = look_at_texts(np.ones(2), ["a", "b"], ["x", "y"])
    spoken = "[SPEAKER_01]: So [Laughter] we (uh) <NOISE> a < b <|0.00|> <|2.40|> <asr_text>."
    clips = [("x", spoken, spoken, "so"), ("y", "SAID ON (3) MAY \x07", "SAID ON (3) MAY", "said")]
    look_at_raw_texts(facts, clips)
    assert set(facts.tags) == {"(uh)"}
    assert set(facts.taken_out) == {"[speaker_#]:", "[laughter]", "<noise>", "<|#|>", "<asr_text>"}
    assert facts.taken_out["<|#|>"].count == 1, "clips, not tags"
    assert (facts.cased, facts.punctuated) == (0.5, 0.5)
    assert [(one.character, one.taught) for one in facts.odd_characters] == [("\x07", False)]


def test_padding_is_what_the_batches_of_a_run_hold(sources):
    training = TrainingConfig(max_steps=30, batch_size=4, gradient_accumulation_steps=2, seed=3)
    mixture = look_at_mixture(sources[0], Config(training=training))
    durations = [source.durations for source in sources[0]]
    plan = SamplingPlan(durations, [1.0], 4, 3)
    real = held = 0.0
    for number in range(60):
        seconds = [float(durations[draw.source][draw.row]) for draw in plan.batch(number)]
        real, held = real + sum(seconds), held + 4 * max(seconds)
    assert mixture.padding == pytest.approx(1 - real / held)
    assert mixture.padding_30s == pytest.approx(1 - real / (240 * 30))
    assert mixture.padding < mixture.padding_random < mixture.padding_30s
    assert mixture.epochs == pytest.approx(240 / 40)
    assert mixture.shares[0].passes == pytest.approx(240 / 40)


def test_nothing_is_leaked_where_nothing_is_shared(sources):
    overlap = look_at_overlap(*sources)
    assert (overlap.num_leaked, overlap.num_duplicates, overlap.all_compared) == (0, 0, True)
    assert overlap.shared_speakers == []
    assert overlap.eval_clips == 12


def test_two_readings_of_a_sentence_are_not_one_recording(sources, tmp_path):
    """The same words and length, another voice: no leak, but the transcripts are known."""
    train, held = sources
    row = next(row for row, text in enumerate(held[0].texts) if text.count(" ") >= 4)
    other = speech(float(held[0].durations[row]), 77)
    soundfile.write(tmp_path / "train000.wav", other, 16_000)
    texts = [held[0].texts[row], *train[0].texts[1:]]
    train[0].texts = type(train[0].texts)(texts)
    train[0].durations[0] = held[0].durations[row]
    overlap = look_at_overlap(train, held)
    assert overlap.num_leaked == 0
    assert overlap.known_transcripts is not None
    assert overlap.known_transcripts > 0


def test_files_beyond_the_budget_are_not_read_and_that_is_said(sources, monkeypatch):
    from tiny_audio.inspection import overlap

    train = sources[0]
    clips = [overlap._Clip("train", train[0], row) for row in (0, 0)] + [overlap._Clip("train", train[0], 1)]
    groups, complete = same_files(clips)
    assert [(evidence, len(group)) for evidence, group in groups] == [("the same file", 2)]
    assert complete
    monkeypatch.setattr(overlap, "_size", lambda path: 10_000)
    monkeypatch.setattr(overlap, "HASHED_BYTES", 15_000)
    assert same_files(clips)[1] is False


def test_loudness_is_in_decibels():
    wave = np.concatenate([np.full(160, 0.1), np.full(160, 0.01), np.zeros(80)]).astype(np.float32)
    assert loudness(wave) == pytest.approx([-20, -40], abs=0.01)


def test_samples_are_seeded_and_in_order(sources):
    rows = sample_rows(sources[0][0], 10, 1)
    assert rows.tolist() == sorted(set(rows.tolist())) == sample_rows(sources[0][0], 10, 1).tolist()
    assert rows.tolist() != sample_rows(sources[0][0], 10, 2).tolist()
    assert sample_rows(sources[0][0], None, 1).tolist() == list(range(40))


def test_histograms_count_everything():
    histogram = Histogram.of([-5.0, 0.2, 0.9, 1.5, 99.0], np.array([0.0, 1.0, 2.0]))
    assert histogram.counts == [3, 2]
    assert bars(Histogram([0, 1, 2, 3], [80, 0, 1])) == "█ ▁"
    assert duration_edges(2.7)[-1] >= 2.7
    assert len(duration_edges(29.4)) <= 61
