"""`ta eval` as it is typed, on the checkpoints of a run of seconds: its rows are those that the run wrote down."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from clips import read_lines
from runs import run_ta
from tiny_audio.audio import load_audio
from tiny_audio.cli import main
from tiny_audio.evaluation.wer import word_errors
from tiny_audio.inference import Recognizer
from tiny_audio.inference import checkpoints as evaluating
from tiny_audio.model.speech_llm import SpeechLLM, Written
from tiny_audio.text import NORMALIZER_NAME
from tiny_audio.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def trained(run_settings, tmp_path_factory) -> Path:
    """The checkpoints of steps 2, 4 and 6, each evaluated on 8 of the 10 clips."""
    folder = tmp_path_factory.mktemp("trained")
    sizes = ["training.max_steps=6", "training.eval_steps=2", "training.save_steps=2", "training.warmup_steps=0"]
    few = ["data.max_eval_samples=8", "training.eval_batch_size=5", "training.learning_rate=1e-4"]
    status, log = run_ta(["train", *run_settings, *sizes, *few], folder)
    assert status == 0, log
    return folder / "outputs/transcription/checkpoints"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TA_DEBUG", raising=False)


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """Checkpoints that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Checkpoints whose models were loaded."""
    found: list[str] = []
    rebuild = evaluating.rebuild

    def counted(saved, path, *args):
        found.append(Path(path).name)
        return rebuild(saved, path, *args)

    monkeypatch.setattr(evaluating, "rebuild", counted)
    return found


def rows(path: str = "rows.json") -> list[dict]:
    return json.loads(Path(path).read_text())


def evaluate(*typed: object) -> int:
    """By the rule that runs are evaluated by, unless another is typed."""
    scoring = [] if any(str(one).startswith("scoring=") for one in typed) else ["scoring=ours"]
    return main(["eval", "--device=cpu", "output=rows.json", *scoring, *map(str, typed)])


def test_the_rows_are_what_the_run_itself_found(trained, loads, monkeypatch, capsys):
    encoded: list[bool] = []
    encode = SpeechLLM.encode
    monkeypatch.setattr(
        SpeechLLM, "encode", lambda s, batch: encoded.append(batch.features is None) or encode(s, batch)
    )
    assert evaluate("--checkpoints-dir", trained.parent, "transcripts=wrote.jsonl") == 0
    state = json.loads((trained / "training_state.json").read_text())
    assert [Path(row["checkpoint"]).name for row in rows()] == [f"checkpoint-step-{step}.pt" for step in (2, 4, 6)], (
        "final.pt is one of them"
    )
    for row, found in zip(rows(), state["history"], strict=True):
        assert (row["step"], row["wer"], row["cer"]) == (found["step"], found["wer"], found["cer"])
        assert row["loss"] == pytest.approx(found["loss"], rel=1e-6)
        assert row["wer_low"] <= row["wer"] <= row["wer_high"]
        assert row["wer"] == (row["substitutions"] + row["insertions"] + row["deletions"]) / row["words"]
        assert row["clips"] == 8
    assert len({row["loss"] for row in rows()}) == 3, "each has weights of its own"
    assert [row["step"] for row in rows() if row["best"]] == [state["best"]["step"]]
    assert loads == ["checkpoint-step-2.pt"]
    assert sum(encoded) == 2, "8 clips in batches of 5, encoded once for all checkpoints"

    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("dev.jsonl: 8 clips, ")
    assert [line.split()[:2] for line in lines[4:7]] == [["step", "2"], ["step", "4"], ["step", "6"]]
    assert [line.split()[1] for line in lines[4:7] if line.rstrip().endswith("best")] == [str(state["best"]["step"])]
    assert " points of WER lower (ours), 95 % interval " in out
    assert f"Scored by ours: {NORMALIZER_NAME}; sclite's costs." in out
    assert "\x1b" not in out
    assert "checkpoint-step-4.pt: WER" in err

    wrote = read_lines(Path("wrote.jsonl"))
    errors, words = word_errors([row["reference"] for row in wrote], [row["hypothesis"] for row in wrote])
    assert [(row["errors"], row["words"]) for row in wrote] == list(zip(errors, words, strict=True))
    assert errors.sum() / words.sum() == state["best"]["value"]


def test_the_table_fits_a_narrow_terminal(trained, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    shutil.copy(trained / "final.pt", "averaged-best-3.pt")
    assert evaluate("checkpoint=averaged-best-3.pt") == 0
    table = capsys.readouterr().out.split("Scored")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "best\n" not in table, "of one there is no best"


def test_other_sets_and_all_of_them_together(trained, corpus):
    sets = f"data.eval_datasets=[{{path: {corpus}/dev.jsonl}}, {{path: {corpus}/train.jsonl}}]"
    assert evaluate(f"checkpoint={trained}/final.pt", sets, "data.max_eval_samples=null") == 0
    dev, train, both = rows()
    assert [row["dataset"] for row in rows()] == ["dev.jsonl", "train.jsonl", "all sets"]
    assert (dev["clips"], train["clips"], both["clips"]) == (10, 60, 70)
    for count in ("words", "substitutions", "insertions", "deletions"):
        assert both[count] == dev[count] + train[count]
    assert min(dev["loss"], train["loss"]) < both["loss"] < max(dev["loss"], train["loss"])


def test_every_clip_is_judged_or_counted(trained, corpus, capsys):
    """Longer than the model reads, without speech, without a transcript: nothing is left out without a word."""
    listed = read_lines(corpus / "dev.jsonl")
    waves = [load_audio(corpus / row["audio"]) for row in listed]
    long, text = np.zeros(0, np.float32), []
    while len(long) <= 31 * 16_000:
        row = len(text) % len(listed)
        long, text = np.concatenate([long, waves[row]]), [*text, listed[row]["text"]]
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1
    for name, wave in (("long", long), ("noise", noise), ("unlabeled", noise), ("good", waves[0])):
        soundfile.write(f"{name}.wav", wave, 16_000)
    clips = [
        {"audio": "good.wav", "text": listed[0]["text"]},
        {"audio": "long.wav", "text": " ".join(text)},
        {"audio": "noise.wav", "text": "[noise]"},
        {"audio": "unlabeled.wav", "text": None},
        {"audio": "gone.wav", "text": "one two three"},
    ]
    Path("mine.jsonl").write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    typed = ["data.eval_path=mine.jsonl", "data.max_skipped_share=0.9", "transcripts=wrote.jsonl"]
    assert evaluate(f"checkpoint={trained}/final.pt", *typed) == 0
    (row,) = rows()
    words = len(listed[0]["text"].split()) + len(" ".join(text).split()) + 3
    assert (row["clips"], row["words"]) == (4, words)
    assert (row["left_out"], row["unread"]) == ({"no_transcript": 1}, {"missing": 1})
    assert (row["in_pieces"], row["without_speech"]) == (1, 1)
    wrote = {item["name"]: item for item in read_lines(Path("wrote.jsonl"))}
    assert set(wrote) == {"good.wav", "long.wav", "noise.wav", "gone.wav"}
    assert row["invented_words"] == wrote["noise.wav"]["errors"]
    segments = Recognizer(trained / "final.pt", "cpu").transcribe("long.wav").text
    assert wrote["long.wav"]["hypothesis"] == segments, "as `ta infer` writes it"
    out = capsys.readouterr().out
    assert "Not judged: 1 clip (1 no_transcript)." in out
    assert "1 judged in pieces, with the loop guard" in out
    assert "of 1 clips without speech" in out
    assert "1 clip (1 missing) could not be read, all words count as deleted" in out


def test_the_figure_that_others_can_compare_comes_first_and_is_of_transcripts_as_the_corpus_has_them(
    trained, corpus, monkeypatch, capsys
):
    """`$20` is "twenty dollars" to Whisper's normalizer, which has to see the sign that labels go without."""
    clip = {"audio": str(corpus / "dev0.flac"), "text": "It's $20, Mr. Gray."}
    Path("mine.jsonl").write_text(json.dumps(clip) + "\n")
    written = [Written("it is twenty dollars mister gray", looped=False, cut_off=False)]
    monkeypatch.setattr(SpeechLLM, "write", lambda *_, **__: written)
    typed = [f"checkpoint={trained}/final.pt", "data.eval_path=mine.jsonl", "transcripts=wrote.jsonl"]
    assert main(["eval", "--device=cpu", "output=rows.json", *typed]) == 0
    (row,) = rows()
    assert (row["scoring"], row["wer"], row["words"]) == ("whisper", 0.0, 5)
    assert row["wer_ours"] > 1.0
    assert row["rtfx"] > 0
    wrote = read_lines(Path("wrote.jsonl"))
    assert [item["reference"] for item in wrote] == ["It's $20, Mr. Gray."]
    assert wrote[0]["seconds"] > 0
    out = capsys.readouterr().out
    header = out.splitlines()[2]
    assert header.split() == ["checkpoint", "whisper", "whisper", "whisper", "ours"]
    assert "Scored by whisper: " in out
    assert "Scored by ours: " in out


def test_a_report_of_all_checkpoints_shows_what_the_best_wrote(trained, capsys):
    assert evaluate("--checkpoints-dir", trained, "report=judged") == 0
    figures = json.loads(Path("judged/eval.json").read_text())
    assert figures["results"] == rows()
    assert len(figures["parts"]) == 3
    (best,) = [row for row in rows() if row["best"]]
    wrote = read_lines(Path("judged/predictions.jsonl"))
    assert sum(row["errors"] for row in wrote) / sum(row["words"] for row in wrote) == best["wer"]
    page = Path("judged/report.html").read_text()
    assert page.count(f"{best['wer']:.1%}") >= 1
    (data,) = re.findall(r"<script id='data' type='application/json'>(.*?)</script>", page, re.DOTALL)
    assert sorted(map(int, json.loads(data)["audio"])) == list(range(8)), "all of them can be heard"
    assert "the report is judged/report.html" in capsys.readouterr().err


def test_a_set_of_which_nothing_can_be_judged_is_told(trained, corpus, capsys):
    clip = {"audio": str(corpus / "dev0.flac"), "text": None}
    Path("mine.jsonl").write_text(json.dumps(clip) + "\n")
    assert evaluate(f"checkpoint={trained}/final.pt", "data.eval_path=mine.jsonl") == 2
    assert "mine.jsonl" in capsys.readouterr().err
    assert not Path("rows.json").exists()


@pytest.mark.parametrize("typed", ["transcripts=mine.jsonl", "output=mine.jsonl"])
def test_the_manifest_that_is_judged_is_not_written_over(typed, trained, corpus, capsys):
    clip = {"audio": str(corpus / "dev0.flac"), "text": "one"}
    Path("mine.jsonl").write_text(json.dumps(clip) + "\n")
    before = Path("mine.jsonl").read_text()
    assert main(["eval", "device=cpu", f"checkpoint={trained}/final.pt", "data.eval_path=mine.jsonl", typed]) == 2
    assert f"{typed} is an input of this command; name another file." in capsys.readouterr().err
    assert Path("mine.jsonl").read_text() == before


def test_a_manifest_of_ones_own_with_a_recording_that_is_gone(trained, corpus, capsys):
    clips = [json.loads(line) for line in (corpus / "dev.jsonl").read_text().splitlines()[:4]]
    for clip in clips:
        clip["audio"] = str(corpus / clip["audio"])
    clips[1] |= {"audio": "gone.flac", "text": "one two three"}
    Path("mine.jsonl").write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    assert evaluate(f"checkpoint={trained}/final.pt", "data.eval_path=mine.jsonl", "transcripts=wrote.jsonl") == 0
    (row,) = rows()
    assert (row["clips"], row["words"]) == (4, sum(len(clip["text"].split()) for clip in clips))
    assert row["deletions"] >= 3
    wrote = read_lines(Path("wrote.jsonl"))
    (unread,) = [item for item in wrote if item["hypothesis"] is None]
    assert (unread["name"], unread["errors"], unread["words"]) == ("gone.flac", 3, 3)
    assert "1 clips could not be read; what was said in them counts as wrong: gone.flac " in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_read_is_named_and_passed_over(copy, capsys):
    for step in (2, 6):
        (copy / f"checkpoint-step-{step}.pt").write_bytes(b"damaged")
    (copy / "final.pt").unlink()
    assert evaluate("--checkpoints-dir", copy) == 0
    assert [row["step"] for row in rows()] == [4]
    err = capsys.readouterr().err
    for step in (2, 6):
        assert err.count(f"checkpoint-step-{step}.pt is damaged or not a checkpoint. It is skipped.") == 1
    (copy / "checkpoint-step-4.pt").write_bytes(b"damaged")
    assert evaluate("--checkpoints-dir", copy) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("ta eval: error: checkpoint ")


def test_a_copied_final_is_counted_once_and_one_of_another_run_is_not(copy):
    (copy / "final.pt").unlink()
    shutil.copyfile(copy / "checkpoint-step-6.pt", copy / "final.pt")
    assert evaluate("--checkpoints-dir", copy) == 0
    assert len(rows()) == 3
    (copy / "checkpoint-step-6.pt").unlink()
    assert evaluate("--checkpoints-dir", copy) == 0
    assert [Path(row["checkpoint"]).name for row in rows()][2:] == ["final.pt"]


def test_models_are_loaded_anew_only_where_they_differ(trained, loads):
    saved = load_checkpoint(trained / "final.pt")
    saved["config"]["model"] |= {"checkpoint": "stage1.pt"}
    save_checkpoint(Path("same.pt"), saved)
    prompt = "Write it down."
    saved["config"]["model"] |= {"prompt": prompt}
    saved["models"] |= {"prompt": prompt, "prompt_ids": None}  # what the template makes of it today
    save_checkpoint(Path("other.pt"), saved)
    assert evaluate(f"checkpoint={trained}/final.pt", "checkpoint=same.pt", "checkpoint=other.pt") == 0
    assert loads == ["final.pt", "other.pt"]
    first, same, other = rows()
    assert first["loss"] == same["loss"] != other["loss"]


def test_a_run_without_an_evaluation_set_needs_one(copy, capsys):
    saved = load_checkpoint(copy / "final.pt")
    saved["config"]["data"] |= {"eval_datasets": []}
    save_checkpoint(copy / "final.pt", saved)
    assert evaluate(f"checkpoint={copy}/final.pt") == 2
    message = "the run had no evaluation set; name one: data.eval_path=my/dev.jsonl"
    assert capsys.readouterr().err.splitlines()[-1] == f"ta eval: error: {message}"


@pytest.mark.parametrize("form", ["jsonl", "csv", "md"])
def test_files_hold_the_rows(form, trained):
    assert main(["eval", "--device=cpu", f"checkpoint={trained}/final.pt", f"output=rows.{form}", "scoring=ours"]) == 0
    text = Path(f"rows.{form}").read_text()
    wer = json.loads((trained / "training_state.json").read_text())["history"][-1]["wer"]
    if form == "md":
        assert f"| **final** | {wer:.1%} |" in text
        assert NORMALIZER_NAME in text
    else:
        (row,) = csv.DictReader(text.splitlines()) if form == "csv" else map(json.loads, text.splitlines())
        assert (float(row["wer"]), row["scoring"]) == (wer, "ours")
        assert NORMALIZER_NAME in row["normalization"]


def test_an_average_transcribes_and_is_evaluated_but_no_run_goes_on_from_it(copy, corpus, run_settings, capsys):
    assert main(["average", "--checkpoints-dir", str(copy), "--best", "2"]) == 0
    mean = copy / "averaged-best-2.pt"
    assert evaluate("--checkpoints-dir", copy) == 0
    averaged = rows()[-1]
    assert Path(averaged["checkpoint"]) == mean
    assert averaged["loss"] not in [row["loss"] for row in rows()[:-1]]
    assert isinstance(Recognizer(mean, "cpu").transcribe(corpus / "dev0.flac").text, str)
    weights = load_checkpoint(mean)["weights"]["projector"]
    steps = load_checkpoint(mean)["averaged"]["steps"]
    parts = [load_checkpoint(copy / f"checkpoint-step-{step}.pt")["weights"]["projector"] for step in steps]
    for name, weight in weights.items():
        torch.testing.assert_close(weight, sum(part[name] for part in parts) / 2)

    assert main(["train", *run_settings, f"training.resume_from_checkpoint={mean}"]) == 2
    assert f"start a run from its weights: model.checkpoint={mean}" in capsys.readouterr().err.splitlines()[-1]
    assert main(["train", *run_settings, f"model.checkpoint={mean}", "training.max_steps=1"]) == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "name checkpoints: ta eval --checkpoints-dir outputs/transcription, or checkpoint=PATH"),
        ("--checkpoints-dir x checkpoint=a.pt",
         "name checkpoints: ta eval --checkpoints-dir outputs/transcription, or checkpoint=PATH"),
        ("--checkpoints-dir nowhere", "there is no folder nowhere."),
        ("--checkpoint final.pt --config-dir /nope", "--config-dir: there is no folder /nope."),
        ("checkpoints_dir=empty", "there are no checkpoints in empty."),
        ("checkpoint=b.pt", "there is no checkpoint b.pt. Beside it: a.pt."),
        ("checkpoint=a.pt output=x.xls", "output=x.xls must end in one of .json, .jsonl, .csv, .md."),
        ("checkpoint=a.pt output=no/x.csv", "output=no/x.csv: cannot be written (No such file or directory)."),
        ("checkpoint=a.pt device=gpu", "device must be one of auto, cuda, mps, cpu, got gpu. Did you mean cuda?"),
        ("checkpoint=a.pt scoring=jiwer",
         "scoring=jiwer: there is no rule 'jiwer'; there are whisper, levenshtein, ours."),
        ("checkpoint=a.pt dev.jsonl", "dev.jsonl is not a setting; settings are written KEY=VALUE."),
        ("checkpoint=a.pt training.max_steps=3",
         "ta eval does not read training.max_steps; `ta eval --help` says which settings it does."),
        ("--chekpoint a.pt", "unrecognized arguments: --chekpoint; `ta eval --help` says more."),
        ("checkpoint=a.pt", "checkpoint a.pt is damaged or not a checkpoint."),
    ],
)  # fmt: skip
def test_mistakes(typed, message, capsys):
    Path("a.pt").write_bytes(b"")
    Path("empty").mkdir()
    assert main(["eval", *typed.split()]) == 2
    assert capsys.readouterr() == ("", f"ta eval: error: {message}\n")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("data=libri", "data=libri does not exist. Did you mean librispeech?"),
        ("data.max_eval_samples=0", "data.max_eval_samples must be at least 1, got 0."),
        ("batch_size=x", "training.eval_batch_size must be a whole number, got x."),
        ("data.eval_path=gone.jsonl", "there is no gone.jsonl"),
    ],
)
def test_mistakes_in_settings(typed, message, trained, capsys):
    assert evaluate(f"checkpoint={trained}/final.pt", typed) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]


def test_what_is_typed_goes_over_the_runs_own_settings_and_nothing_else_changes(trained):
    from tiny_audio.cli.eval import parse as parse_eval
    from tiny_audio.cli.eval import to_settings, with_typed

    saved = load_checkpoint(trained / "final.pt")["config"]
    typed = to_settings(parse_eval(["checkpoint=x", "data=librispeech", "data.text_case=keep", "batch_size=3"]))
    config = with_typed(saved, typed).to_dict()
    assert [entry["split"] for entry in config["data"]["eval_datasets"]] == ["dev-clean"]
    assert (config["data"]["text_case"], config["training"]["eval_batch_size"]) == ("keep", 3)
    chosen = ("name", "eval_datasets", "datasets", "max_eval_samples")
    expected = {**saved["data"], **{key: config["data"][key] for key in chosen}}
    assert config["data"]["max_eval_samples"] == 500, "as the preset has it: data=leaderboard takes whole sets"
    assert config["data"] == {**expected, "text_case": "keep"}
    assert config["model"] == saved["model"]
    assert saved["hardware"]["device"] == "cpu"
    assert with_typed(saved, []).hardware.device == "auto"
    fewer = with_typed(saved, ["data.max_eval_samples=7"]).to_dict()
    assert fewer["data"] == {**saved["data"], "max_eval_samples": 7}, "the run's own clips, and no others"


def test_help_imports_nothing_heavy():
    program = """
import sys
from tiny_audio.cli import main
for command in ("eval", "clean-checkpoints", "average"):
    try:
        main([command, "--help"])
    except SystemExit as done:
        assert done.code == 0
assert not {"torch", "transformers", "numpy", "rich"} & {*sys.modules}, sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"usage: ta {name}" in done.stdout for name in ("eval", "clean-checkpoints", "average"))


def test_of_a_language_without_spaces_it_says_that_cer_is_the_figure(run_settings, corpus, tmp_path, capsys):
    texts = ("今天天气很好", "我们去公园吧", "他在学习中文")
    rows = [{"audio": f"{corpus}/dev{i}.flac", "text": text} for i, text in enumerate(texts)]
    Path("zh.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    settings = [re.sub(r"path: .*\.jsonl", "path: zh.jsonl", one) for one in run_settings]
    assert main(["train", *settings, "training.max_steps=1"]) == 0
    assert "without spaces between words: CER is the figure; choose by training.metric_for_b" in capsys.readouterr().err
    path = "outputs/transcription/checkpoints/final.pt"
    assert main(["eval", f"--checkpoint={path}", "--output=zh.json"]) == 0
    line = "Written without spaces between words: CER is the figure, WER counts each character as a word."
    assert line in capsys.readouterr().out
    assert json.loads(Path("zh.json").read_text())
    assert main(["eval", f"--checkpoint={path}", f"data.eval_path={corpus}/dev.jsonl"]) == 0
    assert "CER is the figure" not in capsys.readouterr().out
