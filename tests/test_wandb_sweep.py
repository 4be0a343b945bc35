"""The real `wandb sweep` and `wandb agent` with the shipped files, and a stand-in for the server."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clips import read_lines
from wandb_stub import ENTITY, PROJECT, SWEEP, WandbStub

REPOSITORY = Path(__file__).resolve().parents[1]
TRIALS = [
    {
        "training.learning_rate": 3e-05,
        "training.batch_size": 8,
        "training.weight_decay": 0.1,
        "model.projector_config.hidden_dim": 32,
    },
    {
        "training.learning_rate": 0.001,
        "training.batch_size": 4,
        "training.weight_decay": 0.02,
        "model.projector_config.hidden_dim": 48,
    },
]


def wandb(arguments: list[str], folder: Path, url: str) -> str:
    """Run W&B's own command; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "WANDB_BASE_URL": url,
        "WANDB_API_KEY": "0" * 40,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # agents run `python`
    }
    command = [sys.executable, "-m", "wandb", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_a_sweep_of_two_trials(tmp_path, run_settings):
    sweep = yaml.safe_load((REPOSITORY / "sweep.yaml").read_text())
    assert sweep["command"].count("experiment=transcription") == 1
    at = sweep["command"].index("experiment=transcription")
    settings = [token for token in run_settings if token.partition("=")[0] not in TRIALS[0]]
    sweep["command"][at : at + 1] = [*settings, "training.max_steps=2", "logging.use_wandb=true"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    shutil.copy(REPOSITORY / "train.py", tmp_path)

    with WandbStub(TRIALS) as server:
        printed = wandb(["sweep", "sweep.yaml"], tmp_path, server.url)
        assert f"wandb agent {ENTITY}/{PROJECT}/{SWEEP}" in printed
        created = yaml.safe_load(server.sweep)
        assert set(created["parameters"]) == set(TRIALS[0])
        assert created["command"] == sweep["command"]
        printed = wandb(["agent", f"{ENTITY}/{PROJECT}/{SWEEP}"], tmp_path, server.url)

    for name, trial in zip(("run1", "run2"), TRIALS, strict=True):
        folder = tmp_path / "outputs" / "sweeps" / SWEEP / name / "transcription"
        config = yaml.safe_load((folder / "checkpoints" / "config.yaml").read_text())
        for key, value in trial.items():
            found = config
            for part in key.split("."):
                found = found[part]
            assert found == value, key
        rows = read_lines(folder / "metrics.jsonl")
        sent = [(row["train/global_step"], row["eval/wer"]) for row in server.history[name] if "eval/wer" in row]
        assert sent == [(row["step"], row["eval/wer"]) for row in rows if "eval/wer" in row]
        assert len(sent) == 1, printed
        assert (folder / "checkpoints" / "final.pt").is_file(), printed
