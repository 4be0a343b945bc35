"""Compare, at equal training time, what CTC gives a new projector: nothing, a warm-up, a second loss, or both.

    python benchmarks/warmup.py experiment=quickstart --seconds 45
    python benchmarks/warmup.py --report docs/warmup_pocket.json   # table and picture again

Settings of `ta train` come first. The script measures how long a step of each kind takes; then every run gets as many
steps as fit into --seconds, of which the warm-up has --share. Encoding (cache it), evaluation and setting up do not
count. The last step counts, not the best. A run that was stopped goes on. Leave the machine to it, or keep it equally
busy; the table has the time that training really took. Needs matplotlib: pip install -e '.[dev]'.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from seeds import Curves, Rates, draw, rates_of

ROOT = Path(__file__).resolve().parent.parent
WEIGHT = 0.3  # of the CTC loss beside the decoder's, the default of training.ctc_loss_weight
MEASURED = 40  # steps that are timed

# Whether there is a warm-up, and whether CTC is kept as a second loss.
VARIANTS = {
    "nothing": (False, False),
    "warm-up": (True, False),
    "second loss": (False, True),
    "both": (True, True),
}
COLORS = dict(zip(VARIANTS, ("#75507b", "#3465a4", "#ce5c00", "#4e9a06"), strict=True))


def train(settings: list[str], folder: Path, warmup: int, steps: int, second: bool, *more: str) -> list[dict[str, Any]]:
    """Run `ta train` in a folder unless that was done; return the rows of its metrics.jsonl."""
    command = [sys.executable, "-m", "tiny_audio.cli", "train", *settings]
    command += [f"training.ctc_warmup_steps={warmup}", f"training.max_steps={steps}"]
    command += [f"training.ctc_loss_weight={WEIGHT if second else 0}", "training.eval_at_start=false"]
    command += [f"training.eval_steps={steps}", "logging.log_transcripts=1000000", f"paths.output_dir={folder}", *more]
    print(f"\n{folder.name}: {warmup} steps of warm-up, {steps} steps", flush=True)
    if subprocess.run(command).returncode:
        raise SystemExit(f"{folder.name} failed; its folder is {folder}.")
    (written,) = folder.glob("*/metrics.jsonl")
    return [json.loads(line) for line in written.read_text().splitlines()]


def step_seconds(settings: list[str], folder: Path) -> dict[str, float]:
    """Return the seconds of a step: of the warm-up, with the decoder, and with the decoder and CTC."""
    seconds, warmup = {}, []
    for name, second in (("decoder", False), ("decoder and CTC", True)):
        quick = ("logging.log_steps=5", "training.preflight=false", f"training.save_steps={MEASURED}")
        rows = train(settings, folder / name.replace(" ", "-"), MEASURED, MEASURED, second, *quick)
        seconds[name] = training_seconds(rows, "train/loss", MEASURED) / MEASURED
        warmup.append(training_seconds(rows, "ctc_warmup/loss", MEASURED) / MEASURED)
    return {"warm-up": statistics.mean(warmup), **seconds}


def steps_that_fit(seconds: float, share: float, cost: dict[str, float]) -> dict[str, tuple[int, int]]:
    """Return the steps of the warm-up and of the run, for each variant."""
    fit = {}
    for name, (warm, second) in VARIANTS.items():
        warmup = round(seconds * share / cost["warm-up"]) if warm else 0
        left = seconds - warmup * cost["warm-up"]
        fit[name] = warmup, round(left / cost["decoder and CTC" if second else "decoder"])
    return fit


def training_seconds(rows: list[dict[str, Any]], key: str, steps: int) -> float:
    """Return how long some steps took, without evaluations, each of which ends with a row of its own.

    Args:
        rows: of metrics.jsonl.
        key: of the rows that these steps logged.
        steps: how many; the time before the first row is taken to be like the rest.
    """
    logged = [index for index, row in enumerate(rows) if key in row]
    if not steps:
        return 0.0
    seconds = sum(rows[index]["time"] - rows[index - 1]["time"] for index in logged[1:])
    return seconds * steps / (rows[logged[-1]]["step"] - rows[logged[0]]["step"])


def read_run(folder: Path, rows: list[dict[str, Any]], warmup: int, steps: int) -> dict[str, Any]:
    """Collect a run's curve, final figures and word errors, and the time it took."""
    from tiny_audio.evaluation.wer import word_errors

    (written,) = folder.glob("*/transcripts.jsonl")
    texts = [json.loads(line) for line in written.read_text().splitlines()]
    texts = sorted((row for row in texts if row["step"] == rows[-1]["step"]), key=lambda row: row["name"])
    errors, words = word_errors([row["reference"] for row in texts], [row["hypothesis"] for row in texts])
    final = next(row for row in reversed(rows) if "eval/loss" in row)
    greedy = [row["ctc_warmup/eval_wer"] for row in rows if "ctc_warmup/eval_wer" in row]
    return {
        "seconds": [
            training_seconds(rows, "ctc_warmup/loss", warmup),
            training_seconds(rows, "train/loss", steps),
        ],
        "curve": [[row["step"], row["train/loss"]] for row in rows if "train/loss" in row],
        "loss": final["eval/loss"],
        "greedy_ctc": greedy[-1] if greedy else None,
        "errors": errors.tolist(),
        "words": words.tolist(),
    }


def table(record: dict[str, Any], found: dict[str, Rates]) -> str:
    """Return the comparison as a Markdown table."""
    lines = ["| | steps: warm-up, run | time | loss, each seed | WER, each seed | mean WER (95 %) | against nothing |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, rates in found.items():
        runs = record["runs"][name].values()
        seconds = statistics.mean(sum(run["seconds"]) for run in runs)
        losses = ", ".join(f"{run['loss']:.3f}" for run in runs)
        warmup, steps = record["steps"][name]
        each, mean, against = rates.cells()
        lines.append(f"| {name} | {warmup}, {steps} | {seconds:.0f} s | {losses} | {each} | {mean} | {against} |")
    return "\n".join(lines)


def curves_of(record: dict[str, Any]) -> dict[str, Curves]:
    """Return the training loss of the decoder over the seconds of training."""
    curves = {}
    for name, seeds in record["runs"].items():
        logged = np.array([run["curve"] for run in seeds.values()])  # (seeds, logged, 2)
        before, during = np.array([run["seconds"] for run in seeds.values()]).mean(0)
        curves[name] = Curves(before + during * logged[0, :, 0] / logged[0, -1, 0], logged[:, :, 1])
    return curves


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Run what is missing, and return the record of all runs."""
    folder = args.folder.resolve()
    known = folder / "cost.json"
    for needed in (folder, args.output.parent):
        needed.mkdir(parents=True, exist_ok=True)
    if not known.exists():
        known.write_text(json.dumps(step_seconds(args.settings, folder)))
    cost = json.loads(known.read_text())
    steps = steps_that_fit(args.seconds, args.share, cost)
    runs: dict[str, dict[str, Any]] = {name: {} for name in VARIANTS}
    for seed in args.seeds:
        for name, (_, second) in VARIANTS.items():
            warmup, run = steps[name]
            place = folder / f"{name.replace(' ', '-')}-{warmup}-{run}-{seed}"
            rows = train(args.settings, place, *steps[name], second, f"training.seed={seed}")
            runs[name][str(seed)] = read_run(place, rows, *steps[name])
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    settings = [setting for setting in args.settings if "/" not in setting]
    return {"machine": machine, "settings": settings, "cost": cost, "steps": steps, "runs": runs}


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="of `ta train`: models, data, projector")
    parser.add_argument("--seconds", type=float, default=60, help="of training for each run")
    parser.add_argument("--share", type=float, default=0.3, help="of the seconds that the warm-up has")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs/warmup", help="where the runs go")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs/warmup.json", help="and a .png beside it")
    parser.add_argument("--report", type=Path, help="train nothing; table and picture from these figures")
    args = parser.parse_args()
    path = args.report or args.output
    record = json.loads(path.read_text()) if args.report else compare(args)
    if not args.report:
        path.write_text(json.dumps(record) + "\n")
    rates = rates_of(record["runs"], "nothing")
    print("\n" + table(record, rates))
    labels = {"xlabel": "seconds of training, the warm-up included", "ylabel": "training loss of the decoder"}
    draw(path.with_suffix(".png"), curves_of(record), rates, COLORS, **labels, ylim=(0, None))


if __name__ == "__main__":
    main()
