"""`ta eval --compare` as it is typed: models of others, checkpoints and prediction files on the same clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import asr_models
from clips import read_lines
from tiny_audio.cli import main
from tiny_audio.cli.eval import with_typed
from tiny_audio.judge.pipelines import ModelRecognizer


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory) -> Path:
    return asr_models.save_wav2vec2(tmp_path_factory.mktemp("others") / "wav2vec2")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> Path:
    return asr_models.save_whisper(tmp_path_factory.mktemp("others") / "whisper")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TA_DEBUG", raising=False)


def compare(*typed: object) -> int:
    return main(["eval", "--device=cpu", "--compare", *map(str, typed)])


def test_a_checkpoint_beside_a_model_of_others_on_the_same_clips(trained, wav2vec2, corpus, capsys):
    assert compare(trained, wav2vec2, "report=judged", "output=rows.json", "batch_size=3") == 0
    ours, theirs = json.loads(Path("rows.json").read_text())
    assert (ours["clips"], ours["words"]) == (theirs["clips"], theirs["words"])
    assert ours["rtfx"] > 0
    assert theirs["rtfx"] > 0
    first, second = (read_lines(Path("judged", name)) for name in ("predictions.jsonl", "predictions-2.jsonl"))
    assert [row["name"] for row in first] == [row["name"] for row in second]
    assert [row["reference"] for row in first] == [row["reference"] for row in second]
    figures = json.loads(Path("judged/eval.json").read_text())
    assert figures["difference"]["points"] == pytest.approx(theirs["wer"] - ours["wer"])
    out, err = capsys.readouterr()
    assert out.count("final.pt against wav2vec2: ") == 1
    assert f"the report is {Path('judged/report.html')}" in err

    # What was written to the report is itself something to compare with: nothing differs.
    assert compare("judged/predictions.jsonl", trained, "output=again.json") == 0
    same, again = json.loads(Path("again.json").read_text())
    assert same["wer"] == again["wer"] == ours["wer"]
    assert (
        "0.0 points of WER lower (whisper), 95 % interval 0.0 to 0.0, p = 1: the difference may be"
        in capsys.readouterr().out
    )


def test_two_prediction_files_need_no_model(capsys):
    said = [f"number {word} is said" for word in ("one", "two", "three", "four", "five", "six", "seven")]
    for name, wrong in (("good", "is"), ("bad", "as")):
        rows = [{"name": str(i), "reference": t, "hypothesis": t.replace("is", wrong)} for i, t in enumerate(said)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compare("bad.jsonl", "good.jsonl", "report=judged") == 0
    out = capsys.readouterr().out
    assert "bad.jsonl against good.jsonl: 25.0 points of WER higher (whisper)" in out
    assert ": more than chance." in out
    assert "0: good.jsonl by 1 error" in out
    assert json.loads(Path("judged/eval.json").read_text())["difference"]["p_value"] < 0.05


def test_whisper_is_asked_for_the_language_and_reads_long_recordings(whisper, monkeypatch):
    config = with_typed(None, ["data.eval_datasets=[]", "training.max_new_tokens=4", "hardware.device=cpu"])
    recognizer = ModelRecognizer(str(whisper), config, "en")
    asked = []
    generate = recognizer.model.model.generate
    monkeypatch.setattr(recognizer.model.model, "generate", lambda **given: asked.append(given) or generate(**given))
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal(n).astype(np.float32) * 0.1 for n in (8_000, 496_000, 16_000)]
    written = recognizer.transcribe(noise)
    assert len(written) == 3
    assert all("<|" not in text for text in written)
    assert written[1], "a long one is read to its end"
    assert [(given["language"], given["task"], given["num_beams"]) for given in asked] == [("en", "transcribe", 1)] * 2
    assert asked[1]["return_timestamps"]
    assert written[0] == recognizer.transcribe(noise[:1])[0], "beside others as alone"


def test_a_language_model_that_is_asked_to_transcribe(tmp_path):
    """GLM-ASR, which transformers' pipeline does not run."""
    config = with_typed(None, ["data.eval_datasets=[]", "training.max_new_tokens=4", "hardware.device=cpu"])
    recognizer = ModelRecognizer(str(asr_models.save_glm_asr(tmp_path / "glm")), config, "en")
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal(n).astype(np.float32) * 0.1 for n in (16_000, 32_000)]
    written = recognizer.transcribe(noise)
    assert all(written)
    assert written == [recognizer.transcribe([one])[0] for one in noise], "beside others as alone"
    assert "transcribe" not in " ".join(written).lower(), "the prompt is not part of it"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("a.jsonl gone.jsonl", "there is no file gone.jsonl."),
        ("a.jsonl gone.pt", "there is no file gone.pt."),
        ("a.jsonl empty",
         "the folder empty holds no model (config.json); name a checkpoint (.pt) in it, or an export."),
        ("a.jsonl nonsense",
         "there is no nonsense: name a checkpoint (.pt), a prediction file (.jsonl), a folder with a model, or a model "
         "of the Hub (owner/name)."),
        ("a.jsonl openai/none", "name the clips: data=leaderboard, or data.eval_path=my/dev.jsonl"),
        ("a.jsonl a.jsonl report=a.jsonl",
         "report=a.jsonl is a file; name a folder, which is created if it does not exist."),
        ("a.jsonl a.jsonl report=a.jsonl/b", "report=a.jsonl/b: cannot be made (Not a directory)."),
        ("predictions.jsonl a.jsonl report=.",
         "report=predictions.jsonl is an input of this command; name another file."),
        ("a.jsonl a.jsonl checkpoint=x.pt",
         "--compare A B names the two; leave checkpoint= and --checkpoints-dir out."),
    ],
)  # fmt: skip
def test_mistakes(typed, message, capsys):
    Path("a.jsonl").write_text('{"reference": "a", "hypothesis": "b"}\n')
    Path("predictions.jsonl").write_text('{"reference": "a", "hypothesis": "b"}\n')
    Path("empty").mkdir()
    assert compare(*typed.split()) == 2
    assert capsys.readouterr() == ("", f"ta eval: error: {message}\n")


def test_a_folder_that_is_no_recognizer_is_told(tiny_models, corpus, capsys):
    Path("a.jsonl").write_text('{"reference": "a", "hypothesis": "b"}\n')
    assert compare("a.jsonl", tiny_models.qwen3, f"data.eval_path={corpus}/dev.jsonl") == 2
    assert f"{tiny_models.qwen3} is not a speech recognizer that transformers can load: " in capsys.readouterr().err
