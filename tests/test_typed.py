"""What the specification says that people type, read out of the pages and run as it stands, on tiny models."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from pathlib import Path

import pytest
import soundfile
import yaml

from runs import start_ta
from test_docs import commands
from tiny_audio.cli import main
from tiny_audio.training.checkpoint import CheckpointFolder, load_checkpoint

QUICK = "ta train experiment=transcription data.max_samples=100 training.max_steps=10 training.eval_steps=5"
TRAIN = [
    "ta train experiment=transcription",
    QUICK,
    "ta train experiment=transcription data.max_samples=50 training.batch_size=1",
    "ta train experiment=transcription data.max_samples=10 data.num_workers=0",
    "ta train training.batch_size=32",
    "ta train training.batch_size=32 training.learning_rate=1e-3 training.max_steps=100000",
    "ta train data=librispeech",
    "ta train training=fast",
    "ta train experiment=mosa data=common_voice training=high_quality training.batch_size=8",
    *(f"ta train experiment={name}" for name in ("mosa", "moe", "qformer", "mlp_lora", "mlp_fine_tune")),
    "ta train experiment=transcription training.resume_from_checkpoint=PATH",
]
OTHERS = [
    "ta train --cfg job",
    "ta infer checkpoint=PATH audio=test.wav",
    "ta eval --checkpoints-dir DIR",
    "ta clean-checkpoints --keep-best 3 --keep-last 2 --output-dir outputs/transcription/",
]
CHECKPOINTS = Path("outputs/transcription/checkpoints")


def test_the_pages_show_every_row_of_the_specification():
    shown = {" ".join(command.split()) for _, command, _ in commands()}
    assert {*TRAIN, *OTHERS} <= shown
    text = "".join(path.read_text() for path in (Path(__file__).parents[1] / "docs").glob("*.md"))
    assert "wandb sweep sweep.yaml\nwandb agent " in text


@pytest.fixture(scope="module")
def words(run_settings) -> list[str]:
    """Settings that make any run small: the models and corpora of the tests, and few steps."""
    left_out = (
        "experiment",
        "training.max_steps",
        "training.eval_steps",
        "training.batch_size",
        "training.warmup_steps",
    )
    small = [setting for setting in run_settings if setting.partition("=")[0] not in left_out]
    return [*small, "model.projector_config.num_heads=2", "model.projector_config.expert_dim=32"]


@pytest.fixture(scope="module")
def run(words):
    """Run a command of the pages, its placeholders filled in; what it does not type itself is small."""

    def run(command: str) -> int:
        newest = CheckpointFolder(CHECKPOINTS).steps()[-1:] or [0]
        checkpoint = str(CHECKPOINTS / f"checkpoint-step-{newest[0]}.pt")
        filled = command.replace("PATH", checkpoint).replace("DIR", "outputs/transcription")
        name, *arguments = shlex.split(filled)[1:]
        if name != "train":
            return main([name, *arguments])
        own = {argument.partition("=")[0] for argument in arguments}
        own -= set() if command == QUICK else {"training.max_steps"}
        small = [*words, f"training.max_steps={4 if 'PATH' in command else 2}"]
        return main([name, *arguments, *(setting for setting in small if setting.partition("=")[0] not in own)])

    return run


@pytest.fixture
def typed(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture(scope="module")
def stages(run, tmp_path_factory) -> Path:
    """What the first two stages leave."""
    folder = tmp_path_factory.mktemp("stages")
    with contextlib.chdir(folder):
        assert run(TRAIN[0]) == 0
        assert run("ta train experiment=mlp_lora") == 0
    return folder / "outputs"


@pytest.mark.parametrize("command", TRAIN)
def test_it_trains(typed, stages, command):
    before = {"mlp_lora": ["transcription"], "mlp_fine_tune": ["transcription", "mlp_lora"]}
    experiment = next((word[11:] for word in command.split() if word.startswith("experiment=")), "transcription")
    for earlier in before.get(experiment, ["transcription"] if "PATH" in command else []):
        shutil.copytree(stages / earlier, Path("outputs") / earlier)
    assert typed(command) == 0
    folder = Path("outputs") / experiment / "checkpoints"
    steps = 10 if command == QUICK else 4 if "PATH" in command else 2
    assert load_checkpoint(folder / "final.pt")["state"]["step"] == steps
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for word in command.split()[2:]:
        key, _, value = word.partition("=")
        if "." in key and key != "training.max_steps" and value != "PATH":
            group, name = key.split(".")
            assert config[group][name] == yaml.safe_load(value.replace("1e-3", "0.001")), word


def test_the_others(typed, corpus, capsys):
    assert typed(QUICK) == 0
    samples, rate = soundfile.read(corpus / "dev0.flac")
    soundfile.write("test.wav", samples, rate)
    before = CheckpointFolder(CHECKPOINTS).steps()
    for command in OTHERS:
        capsys.readouterr()
        assert typed(command) == 0, command
        assert capsys.readouterr().out.strip(), command
    assert CheckpointFolder(CHECKPOINTS).steps() == before


def test_several_runs_side_by_side(words, tmp_path):
    """Two terminals in the same folder, two experiments."""
    names = ("transcription", "moe")
    for name in names:
        (tmp_path / name).mkdir()  # for the log alone
    output = f"paths.output_dir={tmp_path}/outputs"
    small = [*words, "training.max_steps=3", "training.batch_size=8", output]
    runs = [start_ta(["train", f"experiment={name}", *small], tmp_path / name) for name in names]
    assert [run.wait(timeout=200) for run in runs] == [0, 0]
    for name in names:
        assert (tmp_path / "outputs" / name / "checkpoints/final.pt").is_file()
