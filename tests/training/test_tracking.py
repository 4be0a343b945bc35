"""What reaches metrics.jsonl and the trackers, and what of it is there once a run was stopped and went on."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from clips import read_lines
from runs import Started, run_apart, start_ta
from tiny_audio.cli import main
from tiny_audio.config import Config, LoggingConfig, PathsConfig
from tiny_audio.custom_metrics import CustomMetrics, log_metric
from tiny_audio.errors import ConfigError, UserError
from tiny_audio.training import tracking
from tiny_audio.training.checkpoint import load_checkpoint
from tiny_audio.training.loop import Trainer
from tiny_audio.training.tracking import Trackers

NAMES = {  # as the user's document gives them, without the two of a GPU
    "train/loss",
    "train/perplexity",
    "train/learning_rate",
    "train/grad_norm",
    "train/epoch",
    "train/samples_per_second",
    "eval/loss",
    "eval/wer",
    "eval/cer",
    "system/cpu_percent",
}
DOCS = Path(__file__).parents[2] / "docs" / "tracking.md"


def read_wandb(path: Path) -> Iterator[dict[str, object]]:
    """The rows of a `.wandb` file: records in LevelDB's log format, in blocks of 32 KiB, after 7 bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts = path.read_bytes(), 7, []
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record.FromString(b"".join(parts))
            parts = []
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.fixture(scope="module")
def stopped_and_resumed(run_settings, tmp_path_factory) -> Path:
    """The program of docs/tracking.md, stopped by Ctrl+C and started again, with W&B, and TensorBoard if it is here."""
    folder = tmp_path_factory.mktemp("tracked")
    program = folder / "program.py"
    program.write_text(re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[0])
    report_to = "[wandb,tensorboard]" if find_spec("tensorboard") else "[wandb]"
    arguments = [*run_settings, f"logging.report_to={report_to}", "logging.log_transcripts=4"]
    arguments += ["training.eval_steps=3", "training.max_new_tokens=5"]
    metrics = folder / "outputs/transcription/metrics.jsonl"

    def start(max_steps: int) -> Started:
        run = partial(runpy.run_path, str(program), run_name="__main__")
        return start_ta([*arguments, f"training.max_steps={max_steps}"], folder, run)

    first = start(2000)
    deadline = time.monotonic() + 240
    while not (metrics.is_file() and metrics.read_text().count("eval/wer") >= 2) and time.monotonic() < deadline:
        assert first.poll() is None, (folder / "log.txt").read_text()
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=120) == 130, (folder / "log.txt").read_text()
    state = json.loads((folder / "outputs/transcription/checkpoints/training_state.json").read_text())
    assert start(state["step"] + 4).wait(timeout=240) == 0, (folder / "log.txt").read_text()
    return folder / "outputs/transcription"


def test_a_stopped_and_resumed_run_is_one_wandb_run_with_every_step_once(stopped_and_resumed):
    files = sorted(stopped_and_resumed.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.parent.name)
    assert len(files) == 2
    run_id = load_checkpoint(stopped_and_resumed / "checkpoints/final.pt")["state"]["wandb_run_id"]
    assert [path.name for path in files] == [f"run-{run_id}.wandb"] * 2
    rows = [row for path in files for row in read_wandb(path)]
    assert {*NAMES, "custom/output_rms"} <= {name for row in rows for name in row}
    trained = {row["train/global_step"]: row["train/loss"] for row in rows if "train/loss" in row}
    steps = [row["train/global_step"] for row in rows if "train/loss" in row]
    assert steps == list(range(1, steps[-1] + 1)), "no step lost, none twice"
    evaluated = [row["train/global_step"] for row in rows if "eval/wer" in row]
    assert evaluated == [*range(3, steps[-1], 3), steps[-1]]
    local = read_lines(stopped_and_resumed / "metrics.jsonl")
    assert {row["step"]: row["train/loss"] for row in local if "train/loss" in row} == trained


def test_all_names_are_in_metrics_jsonl_and_mean_something(stopped_and_resumed):
    rows = read_lines(stopped_and_resumed / "metrics.jsonl")
    assert {name for row in rows for name in row} >= NAMES
    trained = [row for row in rows if "train/loss" in row]
    for row in trained:
        assert row["train/perplexity"] == pytest.approx(math.exp(row["train/loss"]))
        assert row["train/samples_per_second"] > 0
        assert row["custom/output_rms"] > 0
    assert any(row["system/cpu_percent"] > 0 for row in trained)
    assert trained[-1]["train/epoch"] == pytest.approx(len(trained) * 8 / 60)


def test_on_a_gpu_its_memory_is_logged_too(run_settings, tmp_path, monkeypatch):
    """What the loop takes for a GPU here is none, and what it is said to hold is made up."""

    class OnGpu:
        def __init__(self, accelerator):
            self.accelerator = accelerator

        def __getattr__(self, name):
            return torch.device("cuda") if name == "device" else getattr(self.accelerator, name)

    def log(self, grad_norm):
        self.accelerator, real = OnGpu(self.accelerator), self.accelerator
        shown = logged(self, grad_norm)
        self.accelerator = real
        return shown

    logged = Trainer.log
    monkeypatch.setattr(Trainer, "log", log)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2000)
    monkeypatch.chdir(tmp_path)
    assert main(["train", *run_settings, "training.max_steps=1"]) == 0
    rows = read_lines(tmp_path / "outputs/transcription/metrics.jsonl")
    assert rows[0]["system/gpu_memory_allocated"] == 1000
    assert rows[0]["system/gpu_memory_reserved"] == 2000


def test_the_page_names_all_that_is_logged(stopped_and_resumed):
    logged = {name for row in read_lines(stopped_and_resumed / "metrics.jsonl") for name in row}
    named = set(re.findall(r"`((?:train|eval|system|data)/\w+)`", DOCS.read_text()))
    assert {name for name in logged if "/" in name} - {"custom/output_rms"} <= named
    assert named >= NAMES | {"system/gpu_memory_allocated", "system/gpu_memory_reserved"}


def test_transcripts_are_of_the_same_clips_at_every_evaluation(stopped_and_resumed):
    rows = read_lines(stopped_and_resumed / "transcripts.jsonl")
    by_step: dict[object, list[object]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append((row["name"], row["reference"]))
    assert len(by_step) >= 3
    clips = next(iter(by_step.values()))
    assert len(set(clips)) == 4
    assert all(found == clips for found in by_step.values())
    tables = sorted(stopped_and_resumed.glob("wandb/offline-run-*/files/media/table/eval/transcripts_*.table.json"))
    assert len(tables) == len(by_step)
    table = json.loads(tables[0].read_text())
    assert table["columns"] == ["name", "reference", "hypothesis"]
    assert [(row[0], row[1]) for row in table["data"]] == clips


def test_tensorboard_shows_every_step_once(stopped_and_resumed):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(stopped_and_resumed / "tensorboard"))
    events.Reload()
    assert {*NAMES, "custom/output_rms"} <= set(events.Tags()["scalars"])
    local = {
        row["step"]: row["train/loss"] for row in read_lines(stopped_and_resumed / "metrics.jsonl") if len(row) > 6
    }
    shown = {event.step: event.value for event in events.Scalars("train/loss")}
    assert len(events.Scalars("train/loss")) == len(local)
    assert shown == pytest.approx(local)
    assert "eval/transcripts/text_summary" in events.Tags()["tensors"]


def test_a_killed_runs_later_lines_are_dropped(tmp_path):
    config = Config(logging=LoggingConfig(use_wandb=False, log_transcripts=1))
    said = "말\u2028하다"  # a separator of lines that is no newline
    for start, steps in ((-1, (1, 2, 3)), (2, (3, 4))):
        tracked = Trackers(config, tmp_path, start, None, is_main=True)
        for step in steps:
            tracked.log({"train/loss": math.inf if step == 4 else step + start}, step)
            tracked.log_transcripts([("a.wav", said, str(start)), ("b.wav", "", "")], step)
        tracked.close()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 9, "tra')  # killed while it was writing
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()[:-1]
    assert [(row["step"], row["train/loss"]) for row in map(json.loads, lines)] == [(1, 0), (2, 1), (3, 5), (4, None)]
    rows = [json.loads(line) for line in (tmp_path / "transcripts.jsonl").read_text().split("\n")[:-1]]
    assert [(row["step"], row["hypothesis"]) for row in rows] == [(1, "-1"), (2, "-1"), (3, "2"), (4, "2")]
    assert {row["reference"] for row in rows} == {said}


def test_a_last_line_without_its_newline_is_not_glued_to_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    tracked = Trackers(Config(logging=LoggingConfig(use_wandb=False)), tmp_path, 2, None, is_main=True)
    tracked.log({"train/loss": 1.0}, 3)
    tracked.close()
    assert [row["step"] for row in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_other_processes_and_no_transcripts_write_nothing(tmp_path):
    other = Trackers(Config(), tmp_path / "other", -1, "id", is_main=False)
    other.log({"train/loss": 1.0}, 1)
    other.close()
    assert not (tmp_path / "other").exists()
    none = Trackers(Config(logging=LoggingConfig(use_wandb=False, log_transcripts=0)), tmp_path, -1, None, is_main=True)
    none.log_transcripts([("a.wav", "said", "written")], 1)
    none.close()
    assert (tmp_path / "transcripts.jsonl").read_text() == ""


# W&B without a login, without a server


def log_out() -> None:
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        del os.environ[name]
    os.environ["HOME"] = str(Path.cwd())  # where a login would be kept


def test_logged_out_the_run_is_kept_offline(run_settings, tmp_path):
    arguments = ["train", *run_settings, "logging.use_wandb=true", "training.max_steps=1", "training.max_new_tokens=2"]
    status, log = run_apart(arguments, tmp_path, log_out)
    assert status == 0, log
    assert log.count("WandB: not logged in (`wandb login`); the run is kept offline in") == 1
    assert "[INFO] WandB run initialized: offline, " in log
    (file,) = (tmp_path / "outputs/transcription/wandb").glob("offline-run-*/run-*.wandb")
    rows = list(read_wandb(file))
    assert {name for row in rows for name in row} >= NAMES


def test_without_a_server_the_run_is_kept_offline(tmp_path, monkeypatch, caplog):
    import wandb

    def login(**_: object) -> bool:
        raise wandb.errors.AuthenticationError("Failed to authenticate: no route to host\nTry again.")

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb, "login", login)
    with caplog.at_level(logging.WARNING):
        run = tracking.WandbRun(Config(paths=PathsConfig(output_dir=str(tmp_path))), tmp_path, None)
    run.close()
    (message,) = [record.message for record in caplog.records if record.name.startswith("tiny_audio")]
    assert message.startswith(
        "WandB cannot be reached (Failed to authenticate: no route to host); the run is kept offline"
    )
    assert list((tmp_path / "wandb").glob("offline-run-*"))


# which trackers


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, ["wandb"]), ({"use_wandb": False}, []), ({"report_to": []}, []), ({"report_to": ["trackio"]}, ["trackio"])],
)
def test_report_to_decides_where_it_is_set(settings, expected):
    assert LoggingConfig(**settings).trackers == expected


def test_an_unknown_tracker_is_refused():
    with pytest.raises(
        ConfigError, match=r"logging.report_to must be one of .*, got tensorbord. Did you mean tensorboard"
    ):
        LoggingConfig(report_to=["tensorbord"])


def test_a_tracker_that_is_not_installed_is_one_line_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "trackio" else object())
    assert main(["train", "experiment=quickstart", "logging.report_to=[wandb,trackio]"]) == 2
    message = "ta train: error: logging.report_to: trackio is not installed: pip install trackio\n"
    assert capsys.readouterr().err == message


def test_trackio_goes_on_in_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    program = """
import sys
from pathlib import Path
from tiny_audio.config import Config, LoggingConfig
from tiny_audio.training.tracking import Trackio
from trackio.sqlite_storage import SQLiteStorage
config = Config(logging=LoggingConfig(project_name="tracked"))
for start in (-1, 2):
    run = Trackio(config, Path("outputs/x"), start)
    for step in (1, 2) if start < 0 else (3,):
        run.log({"train/loss": float(step)}, step)
        run.log_transcripts([("a.wav", "said", "written")], step)
    run.close()
other = Trackio(config, Path("outputs/x"), -1)  # afresh in the same folder
other.log({"train/loss": 9.0}, 1)
other.close()
runs = SQLiteStorage.get_run_records("tracked")
print([[row["step"] for row in SQLiteStorage.get_logs("tracked", run["name"], run_id=run["id"]) if "train/loss" in row]
       for run in runs])
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(done.stdout.splitlines()[0])) == [[1], [1, 2, 3]]


# metrics of one's own


def test_values_are_averaged_since_the_last_line():
    metrics = CustomMetrics({})
    weight = torch.tensor(2.0, requires_grad=True)
    with metrics:
        log_metric("custom/tensor", weight * 3)
        log_metric("custom/tensor", torch.tensor([3], dtype=torch.int64))
        log_metric("custom/number", 1)
    log_metric("custom/number", 100.0)  # outside of a step
    assert not metrics._sums["custom/tensor"][0].requires_grad
    assert metrics.take() == {"custom/tensor": 4.5, "custom/number": 1.0}
    assert metrics.take() == {}


def test_what_was_not_logged_yet_goes_on_exactly():
    values = torch.rand(20, generator=torch.Generator().manual_seed(0))
    straight, first = CustomMetrics({}), CustomMetrics({})
    for value in values:
        straight.add("custom/x", value)
    for value in values[:7]:
        first.add("custom/x", value)
    second = CustomMetrics(json.loads(json.dumps(first.state())))
    for value in values[7:]:
        second.add("custom/x", value)
    assert second.take() == straight.take()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train/loss", 1.0, r"train/ is for Tiny Audio's own metrics; write custom/loss, not train/loss\."),
        ("eval/wer", 1.0, r"write custom/wer"),
        ("system/x", 1.0, r"write custom/x"),
        ("step", 1.0, r"a name is written group/name, such as custom/step, got step\."),
        ("/x", 1.0, r"such as custom/x"),
        ("custom/x", torch.zeros(2, 3), r"custom/x must be one number, got a tensor of shape \(2, 3\)\."),
    ],
)
def test_what_cannot_be_logged_is_refused(name, value, message):
    with pytest.raises(UserError, match=message):
        log_metric(name, value)


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tmp_path, caplog):
    class Faulty:
        calls = 0

        def log(self, values, step):
            self.calls += 1
            raise ConnectionError("the server is gone\nand a long story")

        log_transcripts = close = log

    config = Config(logging=LoggingConfig(use_wandb=False), paths=PathsConfig(output_dir=str(tmp_path)))
    places, faulty = Trackers(config, tmp_path, -1, None, is_main=True), Faulty()
    places._trackers.insert(0, faulty)
    for step in (1, 2):
        places.log({"train/loss": float(step)}, step)
    places.close()
    assert faulty.calls == 1
    assert "Faulty failed (the server is gone); training continues without it" in caplog.text
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
