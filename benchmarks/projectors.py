"""Compare the projectors at equal budget: same models, data, steps and seeds, on the pocket pair.

    python benchmarks/projectors.py                      # all of it, writes docs/projectors.json and .png
    python benchmarks/projectors.py --report             # table and picture again, from the figures that are there

Every run is `ta train experiment=quickstart` with another projector and seed, encoder outputs cached. The last step
counts, not the best. Needs matplotlib: pip install -e '.[dev]'.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from seeds import Curves, Rates, draw, rates_of

ROOT = Path(__file__).resolve().parent.parent

# What differs between them; the rest is experiment=quickstart, its learning rate of 2e-3 included: in runs of 400 steps
# with another seed, twice of it was no better for mlp, mosa and moe, nor half of it for the Q-Former. Expert widths are
# a quarter of the shipped experiments', as the quickstart's hidden_dim is, so that the projectors stand to each other
# in size as they do there.
SETTINGS: dict[str, list[str]] = {
    "mlp": [],
    "mosa": ["model.projector_config.expert_dim=128"],
    "moe": ["model.projector_config.expert_dim=128"],
    "qformer": [],
}
COLORS = {"mlp": "#3465a4", "mosa": "#4e9a06", "moe": "#ce5c00", "qformer": "#75507b"}


def train(kind: str, seed: int, steps: int, folder: Path) -> None:
    """Train one projector in `folder`, unless that is done already; a run that was stopped goes on."""
    command = [sys.executable, "-c", "from tiny_audio.cli import main; raise SystemExit(main())", "train"]
    command += ["experiment=quickstart", f"model.projector_type={kind}", *SETTINGS[kind], f"training.seed={seed}"]
    command += ["training.optimizer=adamw", "training.warmup_steps=100", f"training.max_steps={steps}"]
    command += [f"training.eval_steps={max(1, steps // 8)}", "data.cache_features=true"]
    command += [
        f"training.save_steps={steps}",
        f"paths.output_dir={folder}",
        f"paths.cache_dir={folder.parents[1]}/cache",
    ]
    print(f"\n{kind}, seed {seed}: {folder}", flush=True)
    if subprocess.run(command).returncode:
        raise SystemExit(f"{kind}, seed {seed} failed; its folder is {folder}.")


def read_run(folder: Path) -> dict[str, Any]:
    """Decode the dev set with a run's last checkpoint, and collect what the run wrote down."""
    from tiny_audio.audio import load_audio
    from tiny_audio.data.packed import recording_at
    from tiny_audio.evaluation.wer import word_errors
    from tiny_audio.inference.transcribe import Recognizer
    from tiny_audio.pocket import SPEECH_DIR

    state = json.loads((folder / "quickstart/checkpoints/training_state.json").read_text())
    recognizer = Recognizer(folder / "quickstart/checkpoints/final.pt", device="cpu")
    dev = [json.loads(line) for line in (Path(SPEECH_DIR) / "dev.jsonl").read_text().splitlines()]
    clips = [load_audio(recording_at(Path(SPEECH_DIR) / row["audio"])) for row in dev]
    written = recognizer.transcribe_batch(clips, 16)
    errors, words = word_errors([row["text"] for row in dev], written)
    return {
        "parameters": sum(p.numel() for p in recognizer.model.projector.parameters()),
        "curve": [[row["step"], row["wer"]] for row in state["history"]],
        "errors": errors.tolist(),
        "words": words.tolist(),
    }


def measure_cost(rounds: int = 30) -> dict[str, dict[str, float]]:
    """Time a training step on one batch whose encoder outputs are there, and its memory; the projectors take turns.

    Taken in turns and as medians, the figures compare on a machine that does other things, too.
    """
    import torch

    from tiny_audio.config import DataConfig, DatasetConfig, ModelConfig, ProjectorConfig
    from tiny_audio.data.loader import ClipDataset
    from tiny_audio.data.plan import Draw
    from tiny_audio.data.sources import open_sources
    from tiny_audio.model.build import build_speech_llm
    from tiny_audio.training.memory import PeakMemory

    data = DataConfig(name="pocket")
    source = open_sources([DatasetConfig(name="pocket", split="dev")], data, ROOT / "cache", limit=16, seed=0)
    models = {}
    for kind in SETTINGS:
        projector = ProjectorConfig(hidden_dim=512, expert_dim=128, dropout=0.0)
        config = ModelConfig(encoder="pocket", decoder="pocket", projector_type=kind, projector_config=projector)
        models[kind] = build_speech_llm(config, torch.float32).train()
    one = models["mlp"]
    batch = ClipDataset(source, one.decoder.prompt.target_ids, data).__getitems__([Draw(0, 0, i) for i in range(16)])
    frames, lengths = one.encode(batch)
    seconds: dict[str, list[float]] = {kind: [] for kind in models}
    for _ in range(rounds):
        for kind, model in models.items():
            start = time.perf_counter()
            model.loss(frames, lengths, batch.target_ids).objective.backward()
            seconds[kind].append(time.perf_counter() - start)
            model.zero_grad(set_to_none=True)
    cost = {}
    for kind, model in models.items():
        with PeakMemory(torch.device("cpu")) as peak:
            model.loss(frames, lengths, batch.target_ids).objective.backward()
        cost[kind] = {"step_ms": 1000 * float(np.median(seconds[kind])), "peak_mib": peak.bytes / 2**20}
        model.zero_grad(set_to_none=True)
    return cost


def table(runs: dict[str, dict[str, Any]], cost: dict[str, dict[str, float]], found: dict[str, Rates]) -> str:
    """Return one row a projector as a Markdown table."""
    lines = ["| projector | trains | WER (95 % interval) | each seed | against mlp, 95 % | step | its memory |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for kind, rates in found.items():
        size = next(iter(runs[kind].values()))["parameters"] / 1e6
        each, mean, against = rates.cells()
        step, memory = cost[kind]["step_ms"], cost[kind]["peak_mib"]
        lines.append(f"| {kind} | {size:.2f} M | {mean} | {each} | {against} | {step:.0f} ms | {memory:.0f} MiB |")
    return "\n".join(lines)


def curves_of(runs: dict[str, dict[str, Any]]) -> dict[str, Curves]:
    """Return the error rate over the steps, in percent."""
    looks = {kind: np.array([run["curve"] for run in seeds.values()]) for kind, seeds in runs.items()}
    return {kind: Curves(look[0, :, 0], 100 * look[:, :, 1]) for kind, look in looks.items()}


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projectors", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs/projectors", help="where the runs go")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs/projectors", help="figures go to OUTPUT.json and .png"
    )
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    record = args.output.with_suffix(".json")
    if args.report:
        found = json.loads(record.read_text())
        runs, cost = found["runs"], found["cost"]
    else:
        runs = {kind: {} for kind in args.projectors}
        for seed in args.seeds:
            for kind in args.projectors:
                folder = args.folder.resolve() / f"{kind}-{seed}"
                train(kind, seed, args.steps, folder)
                runs[kind][str(seed)] = read_run(folder)
        cost = measure_cost()
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        record.write_text(json.dumps({"steps": args.steps, "machine": machine, "cost": cost, "runs": runs}) + "\n")
    rates = rates_of(runs, "mlp")
    print("\n" + table(runs, cost, rates))
    labels = {"xlabel": "step", "ylabel": "dev WER, %", "yscale": "log"}
    ticks = {"yticks": [5, 10, 20, 50, 100], "yticklabels": ["5", "10", "20", "50", "100"]}
    draw(args.output.with_suffix(".png"), curves_of(runs), rates, COLORS, **labels, **ticks)


if __name__ == "__main__":
    main()
