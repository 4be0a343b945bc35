"""A history of figures never spans two evaluation sets, and says which clips it is of."""

from __future__ import annotations

import json
from pathlib import Path

from clips import read_lines
from runs import run_ta


def state(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        (folder / "outputs/transcription/checkpoints/training_state.json").read_text()
    )
    return found


def test_another_evaluation_set_begins_a_new_history(run_settings: list[str], tmp_path: Path) -> None:
    command = ["train", *run_settings, "training.eval_steps=2", "data.max_eval_samples=6"]
    assert run_ta(command, tmp_path)[0] == 0
    first = state(tmp_path)
    assert [row["step"] for row in first["history"]] == [2, 4]
    file = tmp_path / f"outputs/transcription/evaluation_clips_{first['evaluation_set']}.jsonl"
    clips = read_lines(file)
    assert len({clip["name"] for clip in clips}) == 6
    assert all(clip["reference"] for clip in clips)

    status, log = run_ta([*command, "training.max_steps=6"], tmp_path)  # the same set: its history goes on
    assert status == 0, log
    assert [row["step"] for row in state(tmp_path)["history"]] == [2, 4, 6]
    assert "evaluation set" not in log

    status, log = run_ta([*command, "training.max_steps=8", "data.max_eval_samples=4"], tmp_path)
    assert status == 0, log
    other = state(tmp_path)
    assert [row["step"] for row in other["history"]] == [6, 8], "where it goes on it is evaluated on the new set first"
    assert other["best"]["step"] in (6, 8)
    assert other["evaluation_set"] != first["evaluation_set"]
    line = [line for line in log.splitlines() if "The evaluation set is not the one" in line]
    assert len(line) == 1
    assert len(list(tmp_path.rglob("evaluation_clips_*.jsonl"))) == 2


def test_a_finished_run_is_evaluated_on_another_set(run_settings: list[str], tmp_path: Path) -> None:
    command = ["train", *run_settings, "data.max_eval_samples=6"]
    assert run_ta(command, tmp_path)[0] == 0
    status, log = run_ta([*command, "data.max_eval_samples=4"], tmp_path)
    assert status == 0, log
    assert [row["step"] for row in state(tmp_path)["history"]] == [4]
    assert (
        state(tmp_path)["evaluation_set"]
        in next(tmp_path.rglob("evaluation_clips_*.jsonl"))
        .parent.joinpath(f"evaluation_clips_{state(tmp_path)['evaluation_set']}.jsonl")
        .name
    )
