"""`ta sweep`: what a `sweep.yaml` may say, and a search that is stopped, goes on, and survives its trials.

Most tests put a program of a moment in the place of `ta train`; it leaves `metrics.jsonl` as a run does.
"""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from clips import read_lines
from tiny_audio.cli import main
from tiny_audio.errors import UserError
from tiny_audio.sweep.file import EarlyStop, Parameter, read_sweep

REPOSITORY = Path(__file__).resolve().parents[1]
METRIC = {"name": "eval/wer", "goal": "minimize"}
RATE = {"training.learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-5, "max": 1.0e-2}}
# The error rate is the distance of the learning rate from 1e-3 in orders of magnitude; two evaluations, the first
# better. A batch of 32 does not fit; a file `wait` makes it wait for a signal after the first evaluation.
TRAINER = """
import json, math, os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
given = dict(token.split("=", 1) for token in sys.argv[1:])
folder = Path(given["paths.output_dir"], given.get("experiment", "transcription"))
folder.mkdir(parents=True, exist_ok=True)
if given.get("training.batch_size") == "32":
    sys.exit("[INFO] loading\\nta train: error: the memory of the device is too small.")
wer = abs(math.log10(float(given.get("training.learning_rate", "1e-3"))) + 3)
rows = [{"step": 0, "eval/wer": -1}, {"step": 1, "train/loss": 1}]
rows += [{"step": 2, "eval/wer": wer}, {"step": 4, "eval/wer": wer + 0.5}]
print("in a group of its own:", os.getpgrp() == os.getpid(), flush=True)  # else Ctrl+C comes twice
with (folder / "metrics.jsonl").open("w") as file:
    for row in rows:
        print(json.dumps(row), file=file, flush=True)
        while row["step"] == 2 and Path("wait").exists():
            time.sleep(0.01)
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    from tiny_audio.sweep import search

    monkeypatch.chdir(tmp_path)
    for name in ("TA_DEBUG", "HYDRA_FULL_ERROR", "WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    Path("trainer.py").write_text(TRAINER)
    monkeypatch.setattr(search, "TRAIN", (sys.executable, "trainer.py"))
    monkeypatch.setattr(search, "POLL_SECONDS", 0.05)


def write(parameters: dict, **keys: object) -> None:
    Path("s.yaml").write_text(yaml.safe_dump({"method": "random", "metric": METRIC, "parameters": parameters, **keys}))


def rows(name: str = "s", folder: str = "outputs") -> list[dict[str, str]]:
    with Path(folder, "sweeps", name, "results.csv").open() as file:
        return list(csv.DictReader(file))


# the file


def test_the_shipped_file():
    sweep = read_sweep(REPOSITORY / "sweep.yaml")
    assert (sweep.name, sweep.method, sweep.metric, sweep.minimize) == ("sweep", "bayes", "eval/wer", True)
    assert sweep.settings == ("experiment=transcription",)
    assert sweep.parameters[0] == Parameter("training.learning_rate", low=1e-5, high=1e-3, log=True)
    assert sweep.parameters[3] == Parameter("model.projector_config.hidden_dim", ("1024", "2048", "4096"))


def test_parameters_as_wandb_writes_them():
    given = {
        "training": {"parameters": {"max_steps": {"min": 10, "max": 20}, "weight_decay": {"min": 0, "max": 0.1}}},
        "training.seed": {"value": 3},
        "model.prompt": {"values": ["Write.", "Write it down.", None]},
        "model.lora_config.target_modules": {"values": [["q_proj"], ["q_proj", "v_proj"]]},
        "model.use_lora": {"values": [True, False]},
        "model.projector_config.dropout": {"distribution": "q_uniform", "min": 0, "max": 0.25, "q": 0.1},
        "training.batch_size": {"distribution": "q_uniform", "min": 4, "max": 15, "q": 4},
    }
    command = ["${env}", "${interpreter}", "${program}", "--training.seed=1", "experiment=moe", "${args}"]
    write(given, command=command, program="train.py", name="my sweep", run_cap=5, entity="x")
    sweep = read_sweep(Path("s.yaml"))
    assert (sweep.name, sweep.run_cap, sweep.settings) == ("my-sweep", 5, ("training.seed=3", "experiment=moe"))
    assert {parameter.name: parameter for parameter in sweep.parameters} == {
        parameter.name: parameter
        for parameter in (
            Parameter("training.max_steps", low=10, high=20, step=1),
            Parameter("training.weight_decay", low=0.0, high=0.1),
            Parameter("model.prompt", ("Write.", '"Write it down."', "null")),
            Parameter("model.lora_config.target_modules", ("[q_proj]", "[q_proj,v_proj]")),
            Parameter("model.use_lora", ("true", "false")),
            Parameter("model.projector_config.dropout", low=0.0, high=0.2, step=0.1),
            Parameter("training.batch_size", low=4, high=12, step=4),
        )
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"min_iter": 3}, EarlyStop(3, 3)), ({"max_iter": 27, "s": 2, "eta": 3}, EarlyStop(3, 3))],
)
def test_early_termination(given, expected):
    write(RATE, early_terminate={"type": "hyperband", **given})
    assert read_sweep(Path("s.yaml")).early_stop == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scheduler": {}}, "`ta sweep` does not know scheduler."),
        ({"paramters": {}}, "`ta sweep` does not know paramters. Did you mean parameters?"),
        ({"program": "other.py"}, "program must be train.py, got other.py."),
        ({"method": "best"}, "method must be bayes or random or grid, got best."),
        ({"metric": None}, "metric must be a group of keys, got nothing."),
        ({"metric": {"name": "wer"}}, "metric.name must be a metric such as eval/wer, got wer."),
        ({"metric": {**METRIC, "goal": "less"}}, "metric.goal must be minimize or maximize, got less."),
        ({"metric": {**METRIC, "target": 1}}, "`ta sweep` does not know metric.target."),
        ({"parameters": {}}, "parameters must be a group of keys, got {}."),
        ({"parameters": {"a": {"min": 1}}}, "parameters.a.max is missing."),
        ({"parameters": {"a": {"min": "1e-5", "max": 1.0}}},
         "parameters.a.min must be a number, got 1e-5 (to YAML, 1e-5 is text; write 1.0e-5)."),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "parameters.a.min must be smaller than max, got 2 and 1."),
        ({"parameters": {"a": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}},
         "parameters.a.min must be greater than 0, got 0."),
        ({"parameters": {"a": {"mu": 1, "sigma": 1, "distribution": "normal"}}},
         "parameters.a.distribution must be one of constant, categorical, uniform, int_uniform, q_uniform, "
         "log_uniform_values, got normal."),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": [0.1, 0.9]}}},
         "`ta sweep` does not know parameters.a.probabilities."),
        ({"parameters": {"a": {"values": 3}}}, "parameters.a.values must be a list with a value or more, got 3."),
        ({"parameters": {"a": {"parameters": {"b": {"max": 1.5}}}}}, "parameters.a.b.min is missing."),
        ({"method": "grid"},
         "parameters.training.learning_rate: a grid needs values, or a range of whole numbers."),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate needs min_iter, or max_iter and s."),
        ({"early_terminate": {"type": "median"}}, "early_terminate.type must be hyperband, got median."),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3, "strict": True}},
         "`ta sweep` does not know early_terminate.strict."),
        ({"command": ["accelerate", "launch"]},
         "command: accelerate is neither a setting (KEY=VALUE) nor one of ${env}, ${interpreter}, ${program}, "
         "${args}, ${args_no_hyphens}."),
        ({"run_cap": 0}, "run_cap must be a whole number of at least 1, got 0."),
    ],
)  # fmt: skip
def test_what_is_not_followed_is_refused(keys, message):
    Path("s.yaml").write_text(yaml.safe_dump({"method": "random", "metric": METRIC, "parameters": RATE} | keys))
    with pytest.raises(UserError) as error:
        read_sweep(Path("s.yaml"))
    assert str(error.value) == f"s.yaml: {message}"


# what is typed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one sweep file: ta sweep sweep.yaml"),
        (["nope.yaml"], "nope.yaml cannot be read: No such file or directory."),
        (["s.yaml", "trials=0"], "trials must be at least 1, got 0."),
        (["s.yaml", "--jobs=2"], "unrecognized arguments: --jobs=2; `ta sweep --help` says more."),
        (["s.yaml", "training.max_stps=2"],
         "s.yaml: there is no setting training.max_stps. Did you mean training.max_steps?"),
        (["s.yaml"], "s.yaml: training.batch_size must be at least 1, got 0."),  # the last of its choices
        (["s.yaml", "training.batch_size=8", "training.learning_rate=1e-3"], "s.yaml: nothing is left to search."),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_before_anything_starts(arguments, message, capsys):
    write({**RATE, "training.batch_size": {"values": [8, 16, 0]}})
    before = sorted(Path().iterdir())
    assert main(["sweep", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"ta sweep: error: {message}"
    assert sorted(Path().iterdir()) == before


def test_nothing_heavy_is_imported_before_the_file_is_right():
    program = """
import sys
from tiny_audio.cli import main
heavy = {"torch", "transformers", "wandb", "optuna", "sqlalchemy", "rich", "numpy"}
assert main(["sweep"]) == 2 and main(["sweep", "nope.yaml"]) == 2
assert not heavy & {*sys.modules}, heavy & {*sys.modules}
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# the search


def test_a_search_finds_and_reports_the_best(capsys):
    write(RATE, method="bayes", command=["experiment=transcription", "training.seed=1", "${args}"])
    assert main(["sweep", "s.yaml", "trials=3", "experiment=moe", "model.prompt=Write it."]) == 0
    found = rows()
    assert [row["trial"] for row in found] == ["1", "2", "3"]
    assert {(row["state"], row["step"]) for row in found} == {("trained", "2")}  # the best of two, not that of step 0
    best = min(found, key=lambda row: float(row["eval/wer"]))
    printed = capsys.readouterr()
    table = printed.out.splitlines()
    assert table[0].split() == ["trial", "eval/wer", "step", "learning_rate"]
    assert table[1].split()[:2] == [best["trial"], f"{float(best['eval/wer']):.1%}"]
    assert table[-1] == (
        "ta train experiment=moe training.seed=1 'model.prompt=Write it.' training.learning_rate="
        f"{best['training.learning_rate']} paths.output_dir=outputs/sweeps/s/best-{best['trial']}"
    )
    assert "[INFO] Trial 2/3: eval/wer " in printed.err
    assert Path(f"outputs/sweeps/s/trial-{best['trial']}/moe/metrics.jsonl").is_file()


def test_a_search_in_two_parts_is_the_same_search():
    write({**RATE, "training.batch_size": {"values": [4, 8]}}, method="bayes")
    assert main(["sweep", "s.yaml", "trials=4", "paths.output_dir=once"]) == 0
    for trials in ("2", "4", "3"):  # the last has nothing to do
        assert main(["sweep", "s.yaml", "--trials", trials, "paths.output_dir=twice"]) == 0
    assert rows(folder="twice") == rows(folder="once")
    assert len({row["training.learning_rate"] for row in rows(folder="once")}) == 4


def test_a_grid_is_every_combination_once(capsys):
    write(
        {"training.learning_rate": {"values": [1.0e-4, 1.0e-3]}, "training.seed": {"min": 1, "max": 2}}, method="grid"
    )
    assert main(["sweep", "s.yaml", "trials=3"]) == 0
    assert main(["sweep", "s.yaml"]) == 0
    found = [(row["training.learning_rate"], row["training.seed"]) for row in rows()]
    assert found == [("0.0001", "1"), ("0.0001", "2"), ("0.001", "1"), ("0.001", "2")]
    capsys.readouterr()
    assert main(["sweep", "s.yaml", "trials=9"]) == 0
    assert len(rows()) == 4


def test_what_is_typed_is_not_searched(capsys):
    write({**RATE, "training.batch_size": {"values": [4, 8]}}, run_cap=1)
    assert main(["sweep", "s.yaml", "training.batch_size=16"]) == 0
    assert "training.batch_size is not searched, since a value was typed." in capsys.readouterr().err
    (row,) = rows()
    assert "training.batch_size" not in row


def test_another_sweep_in_the_same_folder_is_refused(capsys):
    write(RATE)
    assert main(["sweep", "s.yaml", "trials=1"]) == 0
    capsys.readouterr()
    assert main(["sweep", "s.yaml", "trials=2", "training.max_steps=7"]) == 2
    assert "ta sweep: error: outputs/sweeps/s holds a sweep with other settings: " in capsys.readouterr().err
    assert len(rows()) == 1


def test_a_failed_trial_is_counted_and_the_search_goes_on(capsys):
    write({"training.batch_size": {"values": [8, 32, 16]}}, method="grid")
    assert main(["sweep", "s.yaml"]) == 0
    assert [row["state"] for row in rows()] == ["trained", "failed", "trained"]
    assert rows()[1]["error"] == "ta train: error: the memory of the device is too small."
    assert "2 trained, 1 failed\n" in capsys.readouterr().out


def test_three_failures_in_a_row_end_the_search(capsys):
    write(RATE)
    assert main(["sweep", "s.yaml", "training.batch_size=32"]) == 2
    assert capsys.readouterr().err.endswith(
        "ta sweep: error: 3 trials in a row failed; the last one: ta train: error: the memory of the device is too "
        "small. (all it printed: outputs/sweeps/s/trial-3/log.txt)\n"
    )
    assert len(rows()) == 3


def test_a_trial_that_is_worse_than_others_is_stopped_early():
    write(
        {"training.learning_rate": {"values": [1.0e-3, 1.0e-4]}},
        method="grid",
        early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2},
    )
    assert main(["sweep", "s.yaml", "trials=1"]) == 0
    Path("wait").touch()  # so that the second trial is there to be stopped; the first would wait for ever
    assert main(["sweep", "s.yaml"]) == 0
    assert [(row["state"], row["eval/wer"], row["step"]) for row in rows()] == [
        ("trained", "0.0", "2"),
        ("stopped early", "1.0", "2"),
    ]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_trial_is_gone_on_with_and_counted_once(number, status, capsys):
    write(RATE)
    Path("wait").touch()
    metrics, log = (Path("outputs/sweeps/s/trial-1", name) for name in ("transcription/metrics.jsonl", "log.txt"))

    def interrupt() -> None:
        while not (metrics.is_file() and '"step": 2' in metrics.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as left:
        raise SystemExit(main(["sweep", "s.yaml", "trials=2"]))
    thread.join()
    assert left.value.code == status
    assert "Trial 1/2 is not finished; the same command resumes it." in capsys.readouterr().err
    Path("wait").unlink()
    assert main(["sweep", "s.yaml", "trials=2"]) == 0
    assert [row["trial"] for row in rows()] == ["1", "2"]
    assert log.read_text() == 2 * "in a group of its own: True\n"
    assert len({row["training.learning_rate"] for row in rows()}) == 2


def test_a_search_waits_for_the_trial_of_one_that_was_killed(tmp_path):
    write(RATE)
    Path("wait").touch()
    program = (
        "import sys; from tiny_audio.sweep import search; search.TRAIN = (sys.executable, 'trainer.py');"
        "from tiny_audio.cli import main; main(['sweep', 's.yaml', 'trials=1'])"
    )
    metrics, log = (Path("outputs/sweeps/s/trial-1", name) for name in ("transcription/metrics.jsonl", "log.txt"))
    killed = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    while not (metrics.is_file() and '"step": 2' in metrics.read_text()):
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    threading.Timer(0.3, Path("wait").unlink).start()
    started = time.monotonic()
    assert main(["sweep", "s.yaml", "trials=1"]) == 0
    assert time.monotonic() - started > 0.25
    assert log.read_text() == 2 * "in a group of its own: True\n"
    assert len(rows()) == 1


def test_a_trial_really_trains(run_settings, monkeypatch):
    from tiny_audio.sweep import search

    monkeypatch.setattr(search, "TRAIN", (sys.executable, "-m", "tiny_audio.cli", "train"))
    write({"model.projector_config.hidden_dim": {"values": [32, 48]}}, method="grid")
    settings = [token for token in run_settings if not token.startswith("model.projector_config")]
    assert main(["sweep", "s.yaml", "trials=1", *settings]) == 0
    (row,) = rows()
    run = Path("outputs/sweeps/s/trial-1/transcription")
    config = yaml.safe_load((run / "checkpoints" / "config.yaml").read_text())
    assert config["model"]["projector_config"]["hidden_dim"] == 32
    logged = read_lines(run / "metrics.jsonl")
    assert float(row["eval/wer"]) == min(line["eval/wer"] for line in logged if "eval/wer" in line)
