"""What `benchmarks/gpu.sh` runs, part by part: each in processes of its own, with a time limit, whatever became of the
others. Prints a table, writes all figures to gpu.json and all output to gpu.log (into the folder $OUT, if it is set),
and exits with 1 where a part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TA = [sys.executable, "-m", "tiny_audio.cli"]
HELD_BACK = ROOT / "src/tiny_audio/pocket/speech/audio/test/0012.flac"
MACHINE = """
import json, sys, torch, transformers
card = torch.cuda.get_device_name() if sys.argv[1] == "cuda" else "CPU"
print(json.dumps({"card": card, "torch": torch.__version__, "transformers": transformers.__version__}))
"""


@dataclass(frozen=True)
class Part:
    """A part of the whole.

    Attributes:
        name: in the table.
        limit: seconds, of all its commands.
        commands: run one after another in `folder`, while they succeed.
        figures: what they left in the folder and printed, in plain values; called whatever became of them.
    """

    name: str
    limit: float
    commands: list[list[str]]
    figures: Callable[[Path, str], dict[str, Any]]


def parts(device: str) -> list[Part]:
    """Return all parts; the first three are the default."""
    cpu = device == "cpu"
    smoke = [sys.executable, "-m", "pytest", "-m", "gpu", "-vv", "-p", "no:cacheprovider"]
    smoke += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    smoke += ["-n", "2" if cpu else "6", "--dist", "worksteal"]
    # Versions here are not of our choosing: what they warn of is shown, and fails nothing.
    smoke += ["-W", "default", str(ROOT / "tests/gpu")]
    load = ["--encoder-layers", "1", "--decoder-layers", "1", "--batch-size", "2", "--seconds", "1"] if cpu else []

    def benchmark(name: str, limit: float, *options: str) -> Part:
        command = [*TA, "benchmark", "--device", device, *load, "--json", "benchmark.json", *options]
        return Part(name, limit, [command], read_benchmark)

    train = [*TA, "train", "experiment=quickstart", f"hardware.device={device}"]
    if cpu:
        train += ["training.max_steps=10", "training.eval_steps=10", "data.max_eval_samples=20"]
    infer = [*TA, "infer", "checkpoint=outputs/quickstart/checkpoints/final.pt"]
    infer += [f"audio={HELD_BACK}", f"device={device}", "output=wrote.txt"]
    return [
        Part("smoke tests", 200, [smoke], read_tests),
        benchmark("benchmark", 90),
        Part("quickstart", 150, [train, infer], read_quickstart),
        benchmark("largest batch", 60, *([] if cpu else ["--seconds", "30"])),
        benchmark("compiled", 100, "--no-baseline", "--compile"),
        benchmark("sdpa", 45, "--no-baseline", "--attention", "sdpa"),
        benchmark("projectors", 75, "--no-baseline", "--projector", "mlp,mosa,moe,qformer"),
    ]


def run(part: Part, log: Path, environment: dict[str, str], patience: float) -> dict[str, Any]:
    """Run a part, within `patience` times its limit; return its row."""
    print(f"{part.name}...", flush=True)
    started = time.monotonic()
    result, begin = "ok", log.stat().st_size if log.is_file() else 0
    with tempfile.TemporaryDirectory() as folder, log.open("a") as output:
        for command in part.commands:
            left = part.limit * patience - (time.monotonic() - started)
            result = run_command(command, folder, output, left, environment)
            if result != "ok":
                break
        with log.open(errors="replace") as whole:
            whole.seek(begin)
            printed = whole.read()
        try:
            figures = part.figures(Path(folder), printed)
        except Exception as error:  # of a part that failed half way; one that did not must have its figures
            figures = {}
            result = f"no figures: {error!r}" if result == "ok" else result
    if result != "ok":
        print("\n".join(printed.splitlines()[-40:]), flush=True)
    return {"part": part.name, "result": result, "seconds": time.monotonic() - started, "figures": figures}


def run_command(command: list[str], folder: str, output: Any, limit: float, environment: dict[str, str]) -> str:
    """Run a command in a process group of its own, and end all of the group with it."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=output, stderr=output, env=environment, start_new_session=True
    )
    try:
        status = process.wait(timeout=max(limit, 1))
        return "ok" if status == 0 else f"exit status {status}"
    except subprocess.TimeoutExpired:
        return "out of time"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left running would slow down the next part
        process.wait()


def read_tests(folder: Path, printed: str) -> dict[str, Any]:
    """Count outcomes from pytest's lines: they are there even where it was ended half way."""
    seen = re.findall(r"^\[gw\d+\] .*(PASSED|FAILED|SKIPPED|ERROR) (\S+)", printed, re.MULTILINE)
    counts = Counter(outcome.lower() for outcome, _ in seen)
    failed = [name for outcome, name in seen if outcome in ("FAILED", "ERROR")]
    measured = dict(re.findall(r"^figure: (\S+) = (.+)$", printed, re.MULTILINE))
    return {**counts, **measured, **({"tests that failed": failed} if failed else {})}


def read_benchmark(folder: Path, printed: str) -> dict[str, Any]:
    """Return our step's figures with each projector, and all that was measured."""
    measured = json.loads((folder / "benchmark.json").read_text())
    figures: dict[str, Any] = {"attention": measured["machine"]["attention"]}
    several = len(measured["projectors"]) > 1
    for one in measured["projectors"]:
        ours = one["variants"]["ours"]
        if "error" in ours:
            raise RuntimeError(f"{one['projector']}: {ours['error']}")
        rate = one["matrix_flops_per_second"]
        found = {
            "steps/s": 1 / ours["seconds"],
            "TFLOP/s": ours["flops"] / ours["seconds"] / 1e12,
            f"MFU, % of a measured {rate / 1e12:.0f} TFLOP/s": 100 * ours["utilization"],
            "peak GiB beyond the weights": ours["peak_bytes"] / 2**30,
        }
        for other in ("usual", "plain"):
            variant = one["variants"].get(other, {})
            if "seconds" in variant:
                found[f"times as fast as {other}"] = variant["seconds"] / ours["seconds"]
            elif "error" in variant:
                found[other] = variant["error"]
        figures |= {f"{one['projector']}: {key}": value for key, value in found.items()} if several else found
    return {**figures, "all": measured}


def read_quickstart(folder: Path, printed: str) -> dict[str, Any]:
    """Return the error rate, and what it took."""
    output = folder / "outputs/quickstart"
    state = json.loads((output / "checkpoints/training_state.json").read_text())
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rates = [row["train/samples_per_second"] for row in rows if "train/samples_per_second" in row]
    wrote = folder / "wrote.txt"
    history = {int(row["step"]): row["wer"] for row in state["history"]}
    return {
        "WER %": 100 * history[max(history)],
        "minutes": state["train_seconds"] / 60,
        "steps": state["step"],
        "clips/s": sorted(rates)[len(rates) // 2],
        "wrote": wrote.read_text().strip() if wrote.is_file() else "nothing",
        "all": state["history"],
    }


def show(rows: list[dict[str, Any]], machine: dict[str, str]) -> None:
    """Print the table, in Markdown."""
    print(
        f"\n{machine['card']}, torch {machine['torch']}, transformers {machine['transformers']}, {machine['python']}\n"
    )
    print("| part | result | seconds | figures |\n|---|---|---|---|")
    for row in rows:
        values = ((key, f"{value:.3g}" if isinstance(value, float) else value) for key, value in row["figures"].items())
        figures = "; ".join(f"{key}: {value}" for key, value in values if key != "all")
        print(f"| {row['part']} | {row['result']} | {row['seconds']:.0f} | {figures} |")


def main() -> int:
    """Run what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the script itself")
    parser.add_argument("--full", action="store_true", help="all parts")
    parser.add_argument("--parts", metavar="NAMES", help="these alone, such as 'benchmark,quickstart'")
    options = parser.parse_args()
    known = parts(options.device)
    chosen = known if options.full else known[:3]
    if options.parts is not None:
        names = options.parts.split(",")
        chosen = [part for part in known if part.name in names]
        if unknown := set(names) - {part.name for part in known}:
            parser.error(f"--parts: there is no {unknown.pop()}; there are {', '.join(part.name for part in known)}")
    out = Path(os.environ.get("OUT", "."))
    log = out / "gpu.log"
    log.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "TINY_AUDIO_TEST_DEVICE": options.device,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
    }
    found = subprocess.run([sys.executable, "-c", MACHINE, options.device], capture_output=True, text=True, timeout=120)
    if found.returncode:
        print(found.stderr, file=sys.stderr)
        return 1
    machine = {**json.loads(found.stdout), "python": f"Python {platform.python_version()}"}
    rows: list[dict[str, Any]] = []
    for part in chosen:
        rows.append(run(part, log, environment, patience=1 if options.device == "cuda" else 5))
        (out / "gpu.json").write_text(json.dumps({**machine, "parts": rows}, indent=2) + "\n")  # however it ends
    show(rows, machine)
    return 1 if any(row["result"] != "ok" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
