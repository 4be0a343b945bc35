"""What a newcomer lacks is told before anything is fetched or loaded, all at once, with a command that works."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub_stub import HubStub, at_hub, serving
from standins import STANDINS
from tiny_audio.cli import main

Train = Callable[[list[str]], tuple[int, str]]

NEWCOMER = [
    "train",
    "experiment=transcription",
    "training.max_steps=2",
    "logging.use_wandb=false",
    "hardware.device=cpu",
]


@pytest.fixture(scope="module")
def hub(standins: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStub]:
    """GigaSpeech is gated, TED-LIUM's mirror is gone, Common Voice's is there without its files."""
    root = Path(shutil.copytree(standins, tmp_path_factory.mktemp("hub") / "standins"))
    (root / STANDINS["tedlium"].repository).rename(root / "sanchit-gandhi/gone")
    for file in STANDINS["common_voice"].files:
        (root / STANDINS["common_voice"].repository / file).unlink()
    for name in ("zai-org/GLM-ASR-Nano-2512", "Qwen/Qwen3-0.6B"):
        (root / "models" / name).mkdir(parents=True)
        (root / "models" / name / "config.json").write_text("{}")
    with serving(root, frozenset({"speechcolab/gigaspeech"})) as server:
        yield server


@pytest.fixture
def train(hub: HubStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """Type `ta` and this; get the exit status, and what is printed, on one line."""

    def run(arguments: list[str]) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["ta", *arguments])
        with at_hub(hub.endpoint, tmp_path):
            status = main(arguments)
        printed = capsys.readouterr()
        return status, " ".join((printed.out + printed.err).split())

    return run


def test_all_that_cannot_be_had_is_told_at_once_with_a_command_that_does_without(
    hub: HubStub, train: Train, run_settings: list[str]
) -> None:
    hub.sent = 0
    status, log = train(NEWCOMER)
    assert status == 2
    for reason in (
        "data.datasets: Could not fetch the dataset speechcolab/gigaspeech: accept its terms at https",
        "data.datasets: Could not fetch the dataset sanchit-gandhi/tedlium-data: there is no such dataset",
        "data.datasets: fixie-ai/common_voice_17_0 has no parquet files of en/train",
    ):
        assert reason in log
    assert "error: 3 of the corpora and models cannot be used (see above); nothing was downloaded." in log
    assert "Loading GLM-ASR" not in log
    assert hub.sent == 0
    kept = (
        "[{name: librispeech, split: train-clean-360, weight: 0.3}, "
        "{name: voxpopuli, split: train, language: en, weight: 0.1}]"
    )
    said = " ".join(NEWCOMER)
    assert f"Without: ta {said} 'data.datasets={kept}' With an open corpus: ta {said} data=loquacious" in log

    # The very commands, on models that are small enough.
    local = [setting for setting in run_settings if not setting.startswith("data.")]
    for number, way in enumerate(re.findall(r"(?:Without|corpus): ta (.*?)(?= With an|$)", log)):
        local[0] = f"paths.output_dir={number}"
        status, said = train([*shlex.split(way), *local, "data.num_workers=0", "data.max_samples=8"])
        assert status == 0, said
        assert "Training completed!" in said


def test_what_was_found_to_be_open_is_not_asked_for_again(hub: HubStub, train: Train, run_settings: list[str]) -> None:
    local = [setting for setting in run_settings if not setting.startswith("data.")]
    arguments = ["train", *local, "data=loquacious", "data.num_workers=0", "data.max_samples=8"]
    assert train(arguments)[0] == 0
    hub.requests.clear()
    status, log = train([*arguments, "training.max_steps=6"])
    assert status == 0, log
    assert not hub.requests


def test_a_model_that_is_not_there_is_told_with_the_corpora(train: Train) -> None:
    status, log = train([*NEWCOMER, "data=loquacious", "model.decoder=Qwen/Qwen3-0.7B"])
    assert status == 2
    assert "error: model.decoder=Qwen/Qwen3-0.7B is neither a model on the Hub (or it is private) nor a folder" in log


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["data=custom", "data.train_path={}/train.json", "data.eval_path={}/dev.jsonl"], "data.train_path"),
        (["data=custom", "data.train_path={}/train.jsonl", "data.eval_path={}/dve.jsonl"], "data.eval_path"),
        (["data.datasets=[{{path: {}/tain.jsonl}}]"], "data.datasets"),
        (["data.eval_datasets=[{{path: {}/dve.jsonl}}]"], "data.eval_datasets"),
        (["data=custom", "data.train_path=my/train", "data.eval_path={}/dev.jsonl"], "data.train_path"),
    ],
)
def test_a_typo_in_a_path_is_told_before_models_are_loaded(
    typed: list[str], told: str, train: Train, run_settings: list[str], corpus: Path
) -> None:
    own = run_settings if typed[0] != "data=custom" else [s for s in run_settings if "datasets=" not in s]
    status, log = train(["train", *own, *(setting.format(corpus) for setting in typed)])
    assert status == 2
    line = log.rpartition("error: ")[2]
    assert line.startswith(
        f"{told}: There is no my/train on this disk" if "my/train" in str(typed) else f"{told}: there"
    )
    assert "did you mean" in line or "my/train" in line
    assert "Loading" not in log
