"""Prediction files of ours and of others, and what two of them have in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiny_audio.errors import UserError
from tiny_audio.evaluation.score import Transcript
from tiny_audio.evaluation.scoring import OURS, WHISPER
from tiny_audio.judge.predictions import on_the_same_clips, read_predictions, to_result


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_our_rows_and_those_of_other_manifests(tmp_path):
    ours = {"dataset": "dev", "name": "a.wav", "reference": "One, two.", "hypothesis": "one", "speaker": "x"}
    theirs = {"audio_filepath": "clips/a.flac", "text": "one two", "pred_text": "", "duration": 2.5}
    (mine,) = read_predictions(write(tmp_path / "mine.jsonl", [ours | {"notes": ["limit"], "seconds": 2}]))
    assert mine == Transcript("dev", "a.wav", "One, two.", "one", ("limit",), 2.0, "x")
    (other,) = read_predictions(write(tmp_path / "theirs.jsonl", [theirs]))
    assert other == Transcript("theirs", "clips/a.flac", "one two", "", ("empty",), 2.5, None)
    left, right = on_the_same_clips([mine], [other])
    assert (left[0].hypothesis, right[0].hypothesis) == ("one", "")
    assert right[0].reference == "One, two.", "both are scored against the same transcript"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.jsonl holds no prediction."),
        ("nonsense", "x.jsonl:1 is not a JSON object."),
        ('\n{"reference": "a"}', "x.jsonl:2 has no hypothesis (or pred_text, prediction)."),
        ('{"pred_text": "a"}', "x.jsonl:1 has no reference (or text)."),
        ('{"text": "a", "pred_text": 3}', "x.jsonl:1: reference and hypothesis must be texts."),
    ],
)
def test_what_is_no_prediction_file_is_told(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").write_text(text)
    with pytest.raises(UserError) as error:
        read_predictions(Path("x.jsonl"))
    assert str(error.value) == message


def row(name: str, reference: str, hypothesis: str, dataset: str = "dev") -> Transcript:
    return Transcript(dataset, name, reference, hypothesis)


def test_clips_are_matched_by_name_and_transcript_and_only_those_of_both_are_kept():
    first = [row("a", "one", "1st"), row("a", "two", "2nd"), row("a", "two", "3rd"), row("b", "six", "gone")]
    second = [row("a", "two", "II"), row("c", "one", "none"), row("a", "Two!", "III"), row("a", "one", "I")]
    left, right = on_the_same_clips(first, second)
    assert [item.hypothesis for item in left] == ["1st", "2nd", "3rd"]
    assert [item.hypothesis for item in right] == ["I", "II", "III"]
    with pytest.raises(UserError, match="no clip in common: a and z"):
        on_the_same_clips(first, [row("z", "one", "one")])


def test_sets_of_other_names_are_matched_by_clip():
    left, right = on_the_same_clips([row("a", "one", "x", "dev.jsonl")], [row("a", "one", "y", "theirs")])
    assert (left[0].dataset, right[0].dataset) == ("dev.jsonl", "dev.jsonl")
    both = [row("a", "one", "x", "clean"), row("a", "one", "y", "noisy")]
    assert on_the_same_clips(both, both[::-1])[1] == both


def test_predictions_are_scored_set_by_set():
    rows = [row("a", "no yes", "no", "x"), row("b", "no", "no", "y"), row("c", "house", "mouse", "x")]
    result = to_result(rows, Path("p.jsonl"), "p", (WHISPER, OURS))
    assert {name: (found.words.errors, found.words.length) for name, found in result.sets.items()} == {
        "x": (2, 3),
        "y": (0, 1),
    }
    assert [item.name for item in result.transcripts] == ["a", "c", "b"], "in the order of the counts"
    assert result.total.errors.tolist() == [1, 1, 0]
