"""What a run does with what it finds in its folder: work is never thrown away, nor other work taken for its own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clips import read_lines
from tiny_audio.cli import main
from tiny_audio.errors import UserError
from tiny_audio.model.speech_llm import SpeechLLM
from tiny_audio.training import checkpoint, loop
from tiny_audio.training.checkpoint import CheckpointFolder, load_checkpoint, save_checkpoint
from tiny_audio.training.interrupt import StopRequest
from tiny_audio.training.ranking import goes_by

FOLDER = CheckpointFolder(Path("outputs/transcription/checkpoints"))


@pytest.fixture(scope="module")
def finished(run_settings, tmp_path_factory) -> Path:
    """A run of two steps that came to its end."""
    folder = tmp_path_factory.mktemp("finished")
    output = f"paths.output_dir={folder}/outputs"
    assert main(["train", *run_settings, output, "training.max_steps=2", "training.eval_steps=2"]) == 0
    return folder / "outputs"


@pytest.fixture
def train(run_settings, finished, tmp_path, monkeypatch):
    """Train in a folder that holds a finished run; return the exit status."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "outputs")
    return lambda *settings: main(["train", *run_settings, "data.eval_datasets=[]", *settings])


def first_steps() -> list[int]:
    rows = read_lines(Path("outputs/transcription/metrics.jsonl"))
    return [row["step"] for row in rows if "train/loss" in row]


@pytest.mark.parametrize("other", ["training.batch_size=4", "training.seed=43", "data.max_audio_length=2.5"])
def test_a_finished_run_is_extended_from_its_weights_though_its_plan_is_another(train, other, capsys):
    assert train("training.max_steps=3", other) == 0
    log = capsys.readouterr().err
    assert "Resuming from step 2..." in log
    assert "training continues from its weights with the new data" in log
    assert FOLDER.steps() == [2, 3]
    assert first_steps() == [1, 2, 3]


def test_a_finished_run_is_not_taken_for_one_with_another_seed(train, capsys):
    """The same command with another seed wants a second run: going on would train nothing, and say it is done."""
    assert train("training.max_steps=2", "training.seed=43") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    path = "outputs/transcription/checkpoints/checkpoint-step-2.pt"
    assert message == (
        f"ta train: error: {path} belongs to a finished run with other training.seed (42 there, 43 here). To continue "
        f"from its weights: training.resume_from_checkpoint={path} and training.max_steps above 2. "
        "To start a new run: another paths.output_dir."
    )
    assert FOLDER.steps() == [2]


def test_a_finished_run_on_other_corpora_is_left_alone_and_both_ways_are_real(train, corpus, capsys):
    other = f"data.datasets=[{{path: {corpus}/dev.jsonl}}]"
    assert train("training.max_steps=3", other) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "belongs to a finished run with other corpora. To continue from its weights:" in message
    assert FOLDER.steps() == [2]
    way = message.partition("weights: ")[2].partition(" and ")[0]
    assert train("training.max_steps=3", other, way) == 0
    assert FOLDER.steps() == [2, 3]
    assert train("training.max_steps=1", other, "paths.output_dir=anew") == 0
    assert CheckpointFolder(Path("anew/transcription/checkpoints")).steps() == [1]


def test_the_real_command_after_a_quick_test_starts_afresh_and_says_so(run_settings, tmp_path, monkeypatch, capsys):
    """The guide's own order of commands, in one folder."""
    monkeypatch.chdir(tmp_path)
    real = ["train", *run_settings, "data.eval_datasets=[]", "training.max_steps=20", "training.warmup_steps=1"]
    assert main([*real, "data.max_samples=30", "training.max_steps=2"]) == 0
    assert main([*real, "training.max_steps=20"]) == 0
    log = capsys.readouterr().err
    path = FOLDER.file(2)
    assert f"[INFO] {path} belongs to a quick test (data.max_samples=30, 2 steps): starting a new run." in log
    assert FOLDER.steps() == [20]
    assert CheckpointFolder(FOLDER.path / "set-aside").steps() == [2]
    assert first_steps() == list(range(1, 21))


def test_a_long_run_on_a_subset_is_no_quick_test(run_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["train", *run_settings, "data.eval_datasets=[]"]
    assert main([*settings, "data.max_samples=30", "training.max_steps=2"]) == 0
    assert main([*settings, "training.max_steps=3"]) == 0
    assert "Resuming from step 2..." in capsys.readouterr().err
    assert FOLDER.steps() == [2, 3]


@pytest.mark.parametrize("cached", [False, True])
def test_a_new_projector_is_the_same_whatever_the_batch_size_is(run_settings, tmp_path, monkeypatch, cached):
    """One clip sixteen times and sixteen at once are the same step: they have to begin from the same weights."""
    monkeypatch.chdir(tmp_path)
    from tiny_audio.training import run

    found = []

    def initialize(config, model, *more):
        initialize_weights(config, model, *more)
        found.append({name: weight.clone() for name, weight in model.projector.state_dict().items()})
        raise UserError("seen.")

    initialize_weights = run.initialize_weights
    monkeypatch.setattr(run, "initialize_weights", initialize)
    own = ["data.eval_datasets=[]", "training.preflight=false", f"data.cache_features={str(cached).lower()}"]
    for size, accumulated in ((1, 16), (16, 1), (4, 4)):
        sizes = [f"training.batch_size={size}", f"training.gradient_accumulation_steps={accumulated}"]
        assert main(["train", *run_settings, *own, *sizes]) == 2
    assert len(found) == 3
    for other in found[1:]:
        for name, weight in found[0].items():
            assert torch.equal(other[name], weight), name


def test_changing_the_metric_ranks_the_same_history_anew_everywhere(train, capsys):
    """Console, state file, `ta clean-checkpoints` and what is returned to a sweep go by one ranking."""
    history = [
        {"step": 1, "loss": 1.0, "wer": 0.9, "cer": 0.5},
        {"step": 2, "loss": 2.0, "wer": 0.2, "cer": float("nan")},
    ]
    content = load_checkpoint(FOLDER.file(2))
    del content["format"], content["version"]
    for step in (1, 2):
        content["state"] |= {"step": step, "history": history[:step], "evaluated_step": step}
        save_checkpoint(FOLDER.file(step), content)
    (FOLDER.path / "training_state.json").unlink()
    for metric, best in (("wer", 2), ("loss", 1), ("cer", 1), ("wer", 2)):
        assert train("training.max_steps=2", f"training.metric_for_best={metric}") == 0
        assert f"Best checkpoint: {FOLDER.file(best)} ({metric.upper()}: " in capsys.readouterr().err
        state = json.loads((FOLDER.path / "training_state.json").read_text())
        assert (state["best"]["step"], state["best"]["metric"]) == (best, metric)
        assert (
            main(["clean-checkpoints", "--dry-run", "--keep-best", "1", "--output-dir", "outputs/transcription"]) == 0
        )
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines if "kept: best" in line] == [FOLDER.file(best).name]
        assert goes_by(FOLDER)["metric_for_best"] == metric, "what `ta eval` ranks by"


def without_finite_loss(forward):
    def nan(self, batch):
        loss = forward(self, batch)
        return loss._replace(cross_entropy=loss.cross_entropy * float("nan"))

    return nan


def test_a_run_in_which_nothing_is_learned_stops_and_says_why(run_settings, tmp_path, monkeypatch, capsys):
    """It used to end with "Training completed!" and weights as they began."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SpeechLLM, "forward", without_finite_loss(SpeechLLM.forward))
    assert main(["train", *run_settings, "training.preflight=false"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("ta train: error: nothing is learned: the gradients of the last 4 steps were not finite")
    monkeypatch.setattr(loop, "GIVE_UP_STEPS", 6)
    settings = ["training.preflight=false", "training.max_steps=500", "training.eval_steps=500", "logging.log_steps=2"]
    assert main(["train", *run_settings, *settings]) == 2
    assert "of the last 6 steps were not finite" in capsys.readouterr().err.splitlines()[-1]


def test_nothing_learned_in_several_parts_is_nothing_learned(run_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SpeechLLM, "forward", without_finite_loss(SpeechLLM.forward))
    typed = ["train", *run_settings, "data.eval_datasets=[]", "training.preflight=false", "training.save_steps=1"]
    assert main([*typed, "training.max_steps=2"]) == 2
    assert FOLDER.steps() == [1], "it stops before it saves its last step"
    assert main([*typed, "training.max_steps=3"]) == 2
    log = capsys.readouterr().err
    assert "nothing is learned: the gradients of the last 2 steps" in log.splitlines()[-1]
    assert "Training completed!" not in log


def test_weights_that_are_not_numbers_are_told(train, corpus, capsys):
    """They used to transcribe to nothing, with exit status 0."""
    content = load_checkpoint(FOLDER.file(2))
    del content["format"], content["version"]
    content["weights"]["projector"]["linear_2.bias"] = content["weights"]["projector"]["linear_2.bias"] * float("nan")
    save_checkpoint(Path("nan.pt"), content)
    assert train("model.checkpoint=nan.pt", "paths.output_dir=other") == 2
    message = "checkpoint nan.pt holds numbers that are not finite (projector linear_2.bias); take another."
    assert capsys.readouterr().err.splitlines()[-1] == f"ta train: error: {message}"
    assert main(["infer", "checkpoint=nan.pt", "device=cpu", f"audio={corpus}/dev0.flac"]) == 2
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1] == f"ta infer: error: {message}"
    assert not shown.out


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_frozen_weights_that_are_not_numbers_are_told(tiny_models, run_settings, tmp_path, monkeypatch, capsys, part):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree({"encoder": tiny_models.glm_asr, "decoder": tiny_models.qwen3}[part], tmp_path / "nan")
    for file in folder.glob("*.safetensors"):
        weights = load_file(file)
        for name in weights:
            if name.endswith("layers.1.self_attn.k_proj.weight"):
                weights[name][1, 2] = float("nan")
        save_file(weights, file, {"format": "pt"})
    assert main(["train", *run_settings, f"model.{part}={folder}"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"ta train: error: model.{part}={folder} holds numbers that are not finite (")
    assert "layers.1.self_attn.k_proj.weight" in message


def test_a_bit_that_flipped_in_a_weight_is_found(train, capsys):
    data = bytearray(FOLDER.file(2).read_bytes())
    weight = load_checkpoint(FOLDER.file(2))["weights"]["projector"]["linear_1.weight"].numpy().tobytes()
    where = data.find(weight)
    assert where > 0
    data[where + 100] ^= 64
    FOLDER.file(2).write_bytes(data)
    assert train("training.max_steps=3") == 2
    assert f"checkpoint {FOLDER.file(2)} is damaged" in capsys.readouterr().err


def test_on_a_full_disk_old_checkpoints_make_room_but_never_the_newest_nor_the_best(
    run_settings, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    save = checkpoint.save_checkpoint

    def with_room_for_three(path, content):
        if path.name != "final.pt" and len(list(path.parent.glob("checkpoint-step-*"))) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(path, content)

    monkeypatch.setattr(checkpoint, "save_checkpoint", with_room_for_three)
    own = ["training.save_steps=1", "training.save_total_limit=null", "training.max_steps=6", "data.eval_datasets=[]"]
    assert main(["train", *run_settings, *own]) == 0
    assert FOLDER.steps() == [4, 5, 6]
    assert capsys.readouterr().err.count("The disk is full: ") == 3


def test_a_last_checkpoint_that_cannot_be_written_for_use_is_one_line(train, monkeypatch, capsys):
    write = checkpoint.write_whole

    def full(path, content):
        if path.name == "final.pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_whole", full)
    assert train("training.max_steps=3") == 2
    message = f"{FOLDER.path}/final.pt cannot be written (No space left on device); {FOLDER.file(3)} holds more."
    assert capsys.readouterr().err.splitlines()[-1] == f"ta train: error: {message}"
    assert FOLDER.steps() == [2, 3]
    assert not list(FOLDER.path.glob(".*"))


def test_a_run_says_what_it_was_made_with_and_keeps_what_it_said(finished):
    state = json.loads((finished / "transcription/checkpoints/training_state.json").read_text())
    made = load_checkpoint(finished / "transcription/checkpoints/final.pt")["run"]
    assert state["run"] == made
    assert made["packages"]["torch"] == torch.__version__
    assert made["machine"]["device"] == "cpu"
    assert made["command"]
    assert len(made["commit"] or 40 * "0") in (40, 41)
    log = (finished / "transcription/train.log").read_text()
    for said in ("INFO Trainable parameters: ", "INFO Step 2/2: loss=", "INFO Training completed!"):
        assert said in log


def test_the_error_that_ends_a_run_is_in_its_log(train, capsys):
    assert train("training.max_steps=2", "training.seed=43") == 2
    assert capsys.readouterr().err.count("belongs to a finished run") == 1
    assert "ERROR UserError: " in Path("outputs/transcription/train.log").read_text().splitlines()[-1]


def test_a_terminal_that_is_gone_does_not_keep_a_run_from_saving(monkeypatch):
    """A closed connection: what is printed after the signal would otherwise end the run before it has saved."""
    moved: list[int] = []

    def gone(descriptor: int, text: bytes) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "write", gone)
    monkeypatch.setattr(os, "dup2", lambda source, target: moved.append(target))
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop()
        assert moved == [1, 2]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_final_is_for_use_and_no_run_goes_on_from_it(finished, train, capsys):
    folder = finished / "transcription/checkpoints"
    final, last = (load_checkpoint(folder / name) for name in ("final.pt", "checkpoint-step-2.pt"))
    assert final["optimizer"] is final["rng"] is None
    assert last["optimizer"]["state"]
    for name, weight in last["weights"]["projector"].items():
        assert torch.equal(final["weights"]["projector"][name], weight)
    assert (folder / "final.pt").stat().st_size < 0.6 * (folder / "checkpoint-step-2.pt").stat().st_size
    assert train("training.max_steps=3", f"training.resume_from_checkpoint={folder}/final.pt") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"holds no optimizer, which a run needs to resume; name {folder}/checkpoint-step-2.pt" in error


@pytest.mark.parametrize("part", ["optimizer", "rng"])
def test_a_checkpoint_whose_optimizer_or_generators_are_damaged_is_one_line(train, capsys, part):
    content = load_checkpoint(FOLDER.file(2))
    del content["format"], content["version"]
    content[part] |= {"torch": "text"} if part == "rng" else {"state": dict.fromkeys(content["optimizer"]["state"], "")}
    save_checkpoint(FOLDER.file(9), content)
    FOLDER.file(9).replace(FOLDER.file(2))
    assert train("training.max_steps=3") == 2
    message = "the checkpoint's optimizer or random generators are damaged; to start from its weights"
    assert message in capsys.readouterr().err.splitlines()[-1]
