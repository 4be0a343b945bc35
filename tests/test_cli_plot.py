"""`ta plot`: runs are read as they lie there, and the files can be opened by anybody."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tiny_audio.cli import main
from tiny_audio.plot.figure import draw, run_colors, smooth
from tiny_audio.plot.runs import differing_settings, names, read_runs

TITLES = [
    "Training loss",
    "Evaluation loss",
    "Error rate",
    "Learning rate",
    "Gradient norm, before clipping",
    "Speed, clips a second",
]


def write_run(folder: Path, lr: float = 1e-3, steps: int = 40, **more: float) -> Path:
    """A run as `ta train` leaves it, killed in the middle of a line."""
    rows: list[dict[str, float | None]] = []
    for step in range(1, steps + 1):
        train = {"loss": 100 / step if step != 5 else None, "grad_norm": 1.0 + step % 3}
        train |= {"learning_rate": lr, "samples_per_second": 10.0}
        rows.append({"step": step, "time": 0.0, **{f"train/{key}": value for key, value in train.items()}, **more})
        if step % 10 == 0:
            rows.append({"step": step, "eval/loss": 3 / step, "eval/wer": 2 / step, "eval/cer": 1 / step})
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 41, "tr')
    config = {
        "training": {"learning_rate": lr, "seed": 1},
        "data": {"datasets": [{"name": "<b>", "path": None}]},
        "paths": {"output_dir": str(folder)},
    }
    (folder / "checkpoints/config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def runs(tmp_path) -> list[str]:
    return [str(write_run(tmp_path / "mlp")), str(write_run(tmp_path / "실험 <$1$>", lr=2e-3))]


def test_one_run_is_drawn_beside_its_metrics(tmp_path, capsys):
    folder = write_run(tmp_path / "mlp")
    assert main(["plot", str(folder)]) == 0
    assert capsys.readouterr().out == f"Curves of 1 run: {folder}/curves.png\n"
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_drawn_is_what_was_logged(runs):
    figure = draw(read_runs(runs))
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert list(panels) == TITLES
    steps, values = panels["Evaluation loss"].lines[0].get_data()
    assert (list(steps), list(values)) == ([10, 20, 30, 40], [3 / 10, 3 / 20, 3 / 30, 3 / 40])
    assert [line.get_linestyle() for line in panels["Error rate"].lines] == ["-", "--"] * 2
    raw, smoothed = panels["Training loss"].lines[:2]
    assert math.isnan(raw.get_ydata()[4])
    assert raw.get_alpha() < 0.5
    assert smoothed.get_alpha() is None
    assert panels["Training loss"].get_yscale() == "log", "it spans 1 to 40"
    assert panels["Evaluation loss"].get_yscale() == "linear"
    assert [line.get_color() for line in panels["Learning rate"].lines] == run_colors(2)
    assert [text.get_text() for text in figure.legends[0].texts] == ["mlp", r"실험 <\$1\$>"]


def test_metrics_of_ones_own_get_panels(tmp_path):
    folder = write_run(tmp_path / "own", **{"custom/entropy": 1.0, "mine/x": 2.0})
    figure = draw(read_runs([str(folder)]))
    assert [ax.get_title(loc="left") for ax in figure.axes] == [*TITLES, "custom/entropy", "mine/x"]


def test_nothing_but_training_was_logged_yet(tmp_path, capsys):
    """One step, no evaluation: as a run that has just begun."""
    folder = write_run(tmp_path / "young", steps=1)
    assert main(["plot", str(folder), "output=" + str(tmp_path / "a.html")]) == 0
    assert "nothing was logged" in (tmp_path / "a.html").read_text()


def test_the_page_opens_without_a_network_and_tells_the_runs_apart(runs, tmp_path):
    output = tmp_path / "curves.html"
    assert main(["plot", *runs, f"output={output}"]) == 0
    page = output.read_text()
    assert "<script" not in page
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", page)
    assert page.count("<svg") == 1
    assert "<td>training.learning_rate</td><td>0.001</td><td>0.002</td>" in page
    assert "training.seed" not in page, "it is the same in both"
    assert "paths.output_dir" not in page
    cells = ("40", "2.500", "5.0% (step 40)", "5.0%", "2.5% (step 40)")
    assert "".join(f"<td class='number'>{cell}</td>" for cell in cells) in page
    assert "실험 &lt;$1$&gt;" in page
    assert "<$1$>" not in page


def test_the_same_runs_give_the_same_drawing(runs, tmp_path):
    outputs = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for output in outputs:
        assert main(["plot", *runs, "--output", str(output)]) == 0
    first, second = (output.read_bytes() for output in outputs)
    assert first == second
    texts = {element.text for element in ElementTree.fromstring(first).iter("{http://www.w3.org/2000/svg}text")}
    assert {*TITLES, "mlp", "실험 <$1$>"} <= texts


def test_a_picture_says_where_letters_have_no_font(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tiny_audio.plot.figure.ASIAN_FONTS", ())
    assert main(["plot", *runs, f"output={tmp_path / 'a.png'}"]) == 0
    assert "No installed font has all letters of the names" in capsys.readouterr().err
    assert (tmp_path / "a.png").is_file()


def test_settings_that_differ(runs, tmp_path):
    (tmp_path / "mlp/checkpoints/config.yaml").unlink()
    differing = differing_settings(read_runs(runs))
    assert differing["training.seed"] == ["-", "1"]
    assert differing["data.datasets"] == ["-", '[{"name": "<b>"}]']
    assert not any(key.startswith("paths") for key in differing)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["outputs/a"], ["a"]),
        (["outputs/a", "outputs/b"], ["a", "b"]),
        (["x/a", "y/a", "y/b"], ["x/a", "y/a", "y/b"]),
        (["x/a", "x/a"], ["a", "a"]),
    ],
)
def test_names_are_as_short_as_tells_them_apart(paths, expected):
    assert names([Path(path) for path in paths]) == expected


def test_smoothing():
    assert smooth([1.0, 2.0, 9.0, 4.0, 5.0], 1) == [1.0, 4.0, 5.0, 6.0, 4.5]
    assert smooth([1.0, math.nan, 3.0], 1)[1] == 2.0
    assert math.isnan(smooth([math.nan], 1)[0])


def test_more_runs_than_named_colors_have_one_each():
    assert len(set(run_colors(7))) == 7
    assert len(set(run_colors(20))) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a run: ta plot outputs/transcription"),
        (["nowhere"], "there is no folder nowhere."),
        (["empty"], "there is no metrics.jsonl in empty."),
        (["."], "there is no metrics.jsonl in .. There are runs in mlp, new."),
        (["new"], "new/metrics.jsonl holds no metrics yet; the first are written after logging.log_steps steps."),
        (["mlp", "output=a.jpg"], "output must end in .png, .svg, .html, got a.jpg."),
        (["mlp", "output=no/a.png"], "output: cannot write no/a.png: No such file or directory."),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "mlp")
    (tmp_path / "empty").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new/metrics.jsonl").touch()
    assert main(["plot", *arguments]) == 2
    assert capsys.readouterr().err == f"ta plot: error: {message}\n"


def test_neither_torch_nor_a_window_is_needed(tmp_path):
    folder = write_run(tmp_path / "mlp")
    program = f"""
import sys
from tiny_audio.cli import main
main(["plot"])
assert "matplotlib" not in sys.modules
assert main(["plot", {str(folder)!r}]) == 0
assert not {{"torch", "matplotlib.pyplot", "wandb"}} & {{*sys.modules}}
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_damaged_is_drawn_around_or_named(tmp_path, capsys):
    lines = (
        b'{"step": 1, "train/loss": "text"}',
        b"[1]",
        b'{"step": "a", "train/loss": 1}',
        b"{",
        b"\xff\xfe",
        b"[" * 9999,
    )
    good = b'{"step": 2, "train/loss": 2.0}'
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join((*lines, good)))
    assert main(["plot", str(tmp_path)]) == 0
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/config.yaml").write_bytes(b"a: [\xff")
    assert main(["plot", str(tmp_path)]) == 2
    assert "config.yaml is damaged; move it away" in capsys.readouterr().err
