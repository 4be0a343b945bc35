"""`ta data check`: faults that were planted are found by name, and nothing is found where there is nothing."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from spoken import make_corpus, make_row, speech, write_corpus

from clips import write_manifest
from tiny_audio.cli import main
from tiny_audio.lengths import SAMPLE_RATE


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def check(settings: list[str], *more: str) -> tuple[int, dict[str, list[dict]], dict]:
    """Run the command; return its exit status, the findings by kind, and all numbers."""
    status = main(["data", "check", *settings, *more, "output=report.json"])
    report = json.loads(Path("report.json").read_text())
    findings = defaultdict(list)
    for finding in report["findings"]:
        findings[finding["kind"]].append(finding)
    return status, findings, report


def names(findings: list[dict]) -> set[str]:
    return {name for finding in findings for name, _ in finding["clips"]}


def test_a_sound_corpus_has_nothing_to_look_at(tmp_path, capsys):
    train, dev = make_corpus(tmp_path / "corpus")
    status, findings, report = check(write_corpus(tmp_path / "corpus", train, dev))
    assert (status, findings) == (0, {})
    out = capsys.readouterr().out
    assert "No findings." in out
    assert all(len(line) <= 80 for line in out.split("Padding:")[0].splitlines())
    facts = report["corpora"][0]
    assert (facts["clips"], facts["speakers"]) == (150, 5)
    assert facts["hours"] == pytest.approx(sum(row["duration"] for row in train) / 3600, rel=1e-5)
    assert facts["text"]["words"] == sum(len(row["text"].split()) for row in train)
    assert facts["text"]["vocabulary"] == len({word for row in train for word in row["text"].split()})
    assert facts["headers"]["kinds"] == {"wav, 16 kHz, mono": 150}
    assert facts["decoded"]["bandwidth_khz"]["median"] == 8
    assert report["corpora"][1]["role"] == "eval"


def test_contexts_are_counted_and_those_that_say_all_are_told(tmp_path, capsys):
    train, dev = make_corpus(tmp_path / "corpus")
    told = [row for row in train if len(row["text"].split()) >= 4][:4]
    for row in train[:60]:
        row["context"] = "Quilter"
    for row in told:
        row["context"] = f"He said: {row['text'].upper()}!"
    status, findings, report = check(write_corpus(tmp_path / "corpus", train, dev))
    assert (status, set(findings)) == (0, {"given_away"})
    assert names(findings["given_away"]) == {row["audio"] for row in told}
    assert [facts["contexts"] for facts in report["corpora"]] == [60, 0]
    assert "contexts" in capsys.readouterr().out
    for row in train[:60]:
        row["context"] = row["context"].replace("Quilter", "")
    assert check(write_corpus(tmp_path / "corpus", train, dev))[0] == 1, "of most of them: nothing is learned"


def test_planted_faults_are_found_by_name(tmp_path, capsys):
    folder = tmp_path / "corpus"
    train, dev = make_corpus(folder)
    by_name = {row["audio"]: row for row in train + dev}
    # An evaluation clip under another name, and one that was encoded anew.
    shutil.copy(folder / "dev003.wav", folder / "train900.wav")
    train.append({**by_name["dev003.wav"], "audio": "train900.wav", "text": "another transcript", "speaker": "s0"})
    long_dev = next(row for row in dev if len(row["text"].split()) >= 5 and row["audio"] != "dev003.wav")
    soundfile.write(folder / "train901.ogg", soundfile.read(folder / long_dev["audio"])[0], SAMPLE_RATE)
    train.append({**long_dev, "audio": "train901.ogg", "speaker": "s0"})
    # A recording of training twice.
    shutil.copy(folder / "train020.wav", folder / "train902.wav")
    train.append({**by_name["train020.wav"], "audio": "train902.wav"})
    # Transcripts swapped between a short and a long clip.
    short, long = (make_row(folder, f"train91{i}.wav", 91 + i, "s1", num_words=n) for i, n in ((0, 2), (1, 10)))
    short["text"], long["text"] = long["text"], short["text"]
    train += [short, long]
    # Cut short, silent, at 8 kHz, quiet, clipped, gone, longer than listed.
    cut = by_name["train030.wav"]
    whole = (folder / "train030.wav").read_bytes()
    (folder / "train030.wav").write_bytes(whole[: len(whole) // 3])
    soundfile.write(folder / "train031.wav", np.zeros(round(by_name["train031.wav"]["duration"] * 16_000)), 16_000)
    soundfile.write(folder / "train032.wav", speech(by_name["train032.wav"]["duration"] / 2, 7), 8_000)
    soundfile.write(folder / "train033.wav", speech(by_name["train033.wav"]["duration"], 8, level=0.001), 16_000)
    for name in ("train034.wav", "train035.wav"):
        loud = speech(by_name[name]["duration"], 9 if name == "train034.wav" else 10, level=2)
        soundfile.write(folder / name, loud.clip(-1, 1), 16_000)
    (folder / "train036.wav").unlink()
    by_name["train037.wav"]["duration"] /= 2
    # Transcripts: an emoji, a foreign letter, a mark, one that comes 50 times, nothing but a comma, 40 s.
    by_name["train040.wav"]["text"] += " 😀"
    by_name["train041.wav"]["text"] += " ж"
    by_name["train042.wav"]["text"] += " <unk>"
    by_name["train043.wav"]["text"] = " , "
    by_name["train044.wav"]["duration"] = 40
    repeated = [make_row(folder, f"again{i:02}.wav", 500 + i, "s2", num_words=4) for i in range(50)]
    train += [{**row, "text": "thank you for watching now"} for row in repeated]

    status, findings, report = check(write_corpus(folder, train, dev), "--decode", "all")
    assert status == 1
    assert [kind for kind, found in findings.items() if any(one["severe"] for one in found)] == ["leak"]
    leaks = {name: note for finding in findings["leak"] for name, note in finding["clips"]}
    assert leaks == {
        "dev.jsonl: dev003.wav": "is train.jsonl: train900.wav: the same bytes",
        f"dev.jsonl: {long_dev['audio']}": "is train.jsonl: train901.ogg: the same sound and transcript",
    }
    assert report["overlap"]["num_leaked"] == 2
    assert names(findings["duplicates"]) == {"train.jsonl: train020.wav"}
    assert {"train910.wav", "train911.wav"} <= names(findings["wrong_length"])
    skipped = {re.search(r"(\w+)\.$", one["what"])[1]: names([one]) for one in findings["skipped"]}
    assert skipped == {"duration_mismatch": {cut["audio"]}, "silent": {"train031.wav"}, "missing": {"train036.wav"}}
    left_out = {re.search(r"(\w+)\.$", one["what"])[1]: names([one]) for one in findings["left_out"]}
    assert left_out == {"empty_text": {"train043.wav"}, "too_long": {"train044.wav"}}
    assert names(findings["low_rate"]) == {"train032.wav"}
    assert names(findings["quiet"]) == {"train033.wav"}
    assert names(findings["clipped"]) >= {"train034.wav", "train035.wav"}
    assert names(findings["longer_than_listed"]) == {"train037.wav"}
    assert "shorter_than_listed" not in findings, "it is told where it was decoded"
    assert names(findings["dropped_characters"]) == {"train040.wav"}
    assert names(findings["odd_characters"]) == {"train041.wav"}
    assert names(findings["tags"]) == {"train042.wav"}
    assert findings["repeated"][0]["what"] == "50 clips with the transcript “thank you for watching now”."
    assert names(findings["repeated"]) == {f"again{i:02}.wav" for i in range(5)}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("!! ", " - "))]
    assert len(lines) == sum(map(len, findings.values())), "each finding is a line of its own"
    assert lines[0].startswith("!! 2 of 180 clips of the evaluation are in the training set. Remove them")


def test_what_stays_in_the_transcript_is_told_as_taught(tmp_path):
    train, dev = make_corpus(tmp_path / "corpus")
    train[4]["text"] += " 😀"
    settings = write_corpus(tmp_path / "corpus", train, dev)
    _, findings, _ = check(settings, "data.keep_punctuation=true")
    assert names(findings["odd_characters"]) == {"train004.wav"}
    assert "dropped_characters" not in findings


def test_transcripts_in_another_order_than_the_recordings_are_severe(tmp_path):
    train, dev = make_corpus(tmp_path / "corpus")
    texts = np.random.default_rng(0).permutation([row["text"] for row in train])
    settings = write_corpus(
        tmp_path / "corpus", [{**row, "text": str(t)} for row, t in zip(train, texts, strict=True)], dev
    )
    status, findings, _ = check(settings)
    assert status == 1
    assert [one["corpus"] for one in findings["unrelated"]] == ["train.jsonl (train)"]


@pytest.mark.parametrize(("missing", "severe"), [(20, False), (60, True)])
def test_more_unusable_clips_than_training_allows_are_severe(tmp_path, missing, severe):
    train, dev = make_corpus(tmp_path / "corpus")
    for row in train[:missing]:
        (tmp_path / "corpus" / row["audio"]).unlink()
    status, findings, report = check(write_corpus(tmp_path / "corpus", train, dev), "--decode", "all")
    assert status == int(severe)
    assert bool(findings["unusable"]) == severe
    assert findings["skipped"][0]["what"] == f"{missing} of 150 decoded clips cannot be used: missing."
    assert report["corpora"][0]["decoded"]["skipped"]["missing"]["count"] == missing


def test_missing_files_are_severe_where_headers_have_to_be_read(tmp_path):
    """Without listed durations half of a corpus would be left out when it is indexed, and training go on."""
    train, dev = make_corpus(tmp_path / "corpus")
    for row in train[::2]:
        (tmp_path / "corpus" / row["audio"]).unlink()
    for row in train:
        del row["duration"]
    status, findings, _ = check(write_corpus(tmp_path / "corpus", train, dev))
    assert status == 1
    assert findings["left_out"][0]["what"] == "75 of 150 clips left out: missing."


def test_corpora_that_contradict_or_differ(tmp_path):
    """Capitals in one only, a small one of a large weight, an evaluation of speakers and sentences of training."""
    train, dev = make_corpus(tmp_path / "corpus")
    write_corpus(tmp_path / "corpus", train, [])
    few = [{**row, "text": row["text"].title()} for row in train[:20]]
    few_dev = [{**dev[i], "text": train[50 + i]["text"], "speaker": "s1"} for i in range(40)]
    write_manifest(tmp_path / "corpus/few.jsonl", few)
    write_manifest(tmp_path / "corpus/few_dev.jsonl", few_dev)
    corpora = f"[{{path: {tmp_path}/corpus/train.jsonl}}, {{path: {tmp_path}/corpus/few.jsonl, weight: 9}}]"
    settings = [f"data.datasets={corpora}", f"data.eval_datasets=[{{path: {tmp_path}/corpus/few_dev.jsonl}}]"]
    settings += ["data.text_case=keep", "model.decoder=pocket", "data.num_workers=0", "training.max_steps=100"]
    status, findings, report = check(settings)
    assert status == 1
    assert findings["mixed_case"][0]["what"].startswith("100% of the transcripts of few.jsonl (train) have capitals")
    assert [one["corpus"] for one in findings["many_passes"]] == ["few.jsonl"]
    assert names(findings["shared_speakers"]) == {"s1"}
    assert findings["known_transcripts"][0]["what"].startswith("100% of the longer evaluation transcripts")
    assert findings["small_evaluation"]
    shares = {share["name"]: share for share in report["mixture"]["shares"]}
    assert shares["few.jsonl"]["draws"] == pytest.approx(0.9)
    assert shares["few.jsonl"]["passes"] == pytest.approx(100 * 16 * 0.9 / 20)
    assert names(findings["duplicates"]) == {f"train.jsonl: train00{i}.wav" for i in range(5)}


def test_a_path_is_enough(tmp_path, capsys):
    train, dev = make_corpus(tmp_path / "corpus", train=30, dev=10)
    train[0] = {**dev[1], "audio": "train000.wav"}
    rows = [{**row, "split": "train"} for row in train] + [{**row, "split": "held out"} for row in dev]
    write_manifest(tmp_path / "corpus/manifest.jsonl", rows)
    (tmp_path / "corpus/train000.wav").write_bytes((tmp_path / "corpus/dev001.wav").read_bytes())
    more = ["model.decoder=pocket", "data.num_workers=0"]
    status, findings, report = check(["corpus", "split=train", "eval_split=held out", *more])
    assert [(facts["role"], facts["clips"]) for facts in report["corpora"]] == [("train", 30), ("eval", 10)]
    assert status == 1
    assert names(findings["leak"]) == {"corpus: dev001.wav"}
    status, findings, report = check(["corpus/manifest.jsonl", *more])
    assert [facts["clips"] for facts in report["corpora"]] == [40]
    assert set(findings) == {"no_evaluation", "duplicates"}


def test_recordings_in_tables_are_looked_at_too(tmp_path, monkeypatch):
    """Bytes in parquet files: an evaluation clip is known again by what it says and how it sounds."""
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    train, dev = make_corpus(tmp_path / "corpus", train=40, dev=12)
    leaked = next(row for row in dev if len(row["text"].split()) >= 5)
    for name, rows in (("train", [*train, leaked]), ("dev", dev)):
        recordings = [{"bytes": (tmp_path / "corpus" / row["audio"]).read_bytes(), "path": None} for row in rows]
        table = {"audio": recordings, "text": [row["text"].upper() for row in rows]}
        table["id"] = [f"{name}{i}" for i in range(len(rows))]
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / f"{name}.parquet")
    paths = [f"data.{key}_path={tmp_path}/{name}.parquet" for key, name in (("train", "train"), ("eval", "dev"))]
    settings = ["data=custom", *paths, "model.decoder=pocket", "data.num_workers=0"]
    status, _, report = check(settings)
    assert status == 1
    [pair] = report["overlap"]["leaked"]
    assert pair["first"] == f"dev.parquet: dev{dev.index(leaked)}"
    assert (pair["second"], pair["evidence"]) == ("train.parquet: train40", "the same sound and transcript")
    assert report["corpora"][0]["headers"]["kinds"] == {"wav, 16 kHz, mono": 41}
    assert report["corpora"][0]["speakers"] is None


def test_the_tokenizer_and_decoding_may_be_left_out(tmp_path, capsys):
    train, dev = make_corpus(tmp_path / "corpus", train=30, dev=10)
    settings = write_corpus(tmp_path / "corpus", train, dev)
    status, _, report = check(settings, "model.decoder=not/here", "--decode", "0", "output=report.html")
    assert status == 0
    assert report["corpora"][0]["tokens"] is None
    assert report["corpora"][0]["decoded"] is None
    out, page = capsys.readouterr().out, html.unescape(Path("report.html").read_text())
    assert "no clip was decoded" in page
    for line in ("No tokens were counted: model.decoder=not/here could not be fetched", "Padding: "):
        assert line in out
        assert line in page


def test_nothing_that_is_read_is_written_over(tmp_path, capsys):
    train, dev = make_corpus(tmp_path / "corpus", train=30, dev=10)
    write_corpus(tmp_path / "corpus", train, dev)
    Path("corpus/train.jsonl").rename("corpus/manifest.json")
    before = Path("corpus/manifest.json").read_bytes()
    for path in ("corpus", "corpus/manifest.json"):
        assert main(["data", "check", path, "output=corpus/manifest.json"]) == 2
    assert "output=corpus/manifest.json is an input of this command" in capsys.readouterr().err
    assert main(["data", "preview", "corpus", "output=corpus"]) == 2
    assert "output=corpus holds other files; name a new folder." in capsys.readouterr().err
    assert Path("corpus/manifest.json").read_bytes() == before
    assert main(["data", "check", "nowhere.jsonl", "output=report.html"]) == 2
    assert not Path("report.html").exists(), "a check that fails leaves no empty report"


def test_kinds_of_recordings_beyond_the_first_are_counted(tmp_path, capsys):
    train, dev = make_corpus(tmp_path / "corpus", train=30, dev=10)
    for number, rate in enumerate((8_000, 11_025, 12_000, 22_050, 24_000)):
        wave = speech(train[number]["duration"], number)
        soundfile.write(
            tmp_path / "corpus" / train[number]["audio"], np.resize(wave, int(len(wave) * rate / 16_000)), rate
        )
    check(write_corpus(tmp_path / "corpus", train, dev), "--decode", "0")
    assert re.search(r"\b2 of 2 other kinds", capsys.readouterr().out)


def test_max_samples_is_heeded_and_worker_processes_find_the_same(tmp_path):
    train, dev = make_corpus(tmp_path / "corpus", train=40, dev=10)
    settings = write_corpus(tmp_path / "corpus", train, dev)
    _, _, alone = check(settings, "data.max_samples=25")
    _, _, workers = check(settings, "data.max_samples=25", "data.num_workers=2")
    assert alone["corpora"][0]["clips"] == alone["corpora"][0]["decoded"]["looked"] == 25
    assert alone == workers


def test_the_page_and_the_picture(tmp_path, capsys):
    train, dev = make_corpus(tmp_path / "corpus", train=60, dev=10)
    train[3]["text"] = " ".join(["<b>river"] * 25)
    settings = write_corpus(tmp_path / "corpus", train, dev)
    assert main(["data", "check", *settings, "output=a.html", "--output", "a.png"]) == 0
    page = Path("a.html").read_text()
    assert page.count("<svg") == 1
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", page)
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert "<b>river" not in page
    for heading in ("Durations, s", "Transcript against seconds", "Words a second", "Mixture", "Padding in a batch"):
        assert heading in page
    assert "train003.wav" in page
    assert "prefers-color-scheme: dark) { svg, .run { filter" in page
    assert "overflow-wrap: anywhere" not in re.search(r"\ntd {[^}]*}", page)[0], "words of tables stay whole"
    assert re.search(r"<td class='number'>60</td>", page)
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere.jsonl"], "data.datasets: there is no nowhere.jsonl; "),
        (["check", "split=train"], "split= needs a path: ta data check my/manifest.jsonl split=train"),
        (["check", "output=a.jpg"], "output must end in .html, .png, .svg, .json, got a.jpg."),
        (["check", "experiment=quickstart", "output=no/a.png"], "output=no/a.png: cannot be written (No such file"),
        (["check", "--decode", "some"], "argument --decode: must be a number or all, got some; "),
        (["check", "data.max_sample=3"], "there is no setting data.max_sample. Did you mean data.max_samples?"),
        (["preview", "--clips", "0"], "argument --clips: must be a number of at least 1, got 0; "),
        (["preview", "model.decoder=./none"], "model.decoder=./none: there is no such folder."),
        (["chek"], "there is no command ta data chek. Did you mean check? `ta data --help` lists them."),
        (["my.jsonl"], "there is no command ta data my.jsonl. There are check and preview. "),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ta data: error: {message}")
    assert error.count("\n") == 1


def test_help_lists_the_commands(capsys):
    assert main(["data", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in ("check", "preview"))
    assert main(["data"]) == 2
    for name in ("check", "preview"):
        with pytest.raises(SystemExit) as stop:
            main(["data", name, "--help"])
        assert stop.value.code == 0
        assert f"ta data {name} my/manifest.jsonl" in capsys.readouterr().out
