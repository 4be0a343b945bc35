"""How long threads should spin before they sleep: a training step, on an idle and on a busy machine.

    python benchmarks/threads.py                          # the quickstart's step
    python benchmarks/threads.py experiment=laptop data=custom data.train_path=my/train.jsonl training.max_steps=0 \\
        training.ctc_warmup_steps=60

The cores of a parallel loop wait for the slowest. A thread that sleeps takes microseconds to wake up, and a step has
thousands of loops; a thread that spins takes a core from processes that have work, such as those that decode audio.
`GOMP_SPINCOUNT` is the limit, in turns of libgomp's waiting loop (PyTorch on Linux); `ta` sets it to 1,000 unless you
do. Settings of `ta train` come first; its encoder outputs are cached before. Leave the machine to it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = 60
QUICKSTART = ["experiment=quickstart", f"training.max_steps={STEPS}", "training.ctc_warmup_steps=0"]
QUIET = ["training.preflight=false", "training.eval_at_start=false", "data.max_eval_samples=8", "logging.log_steps=10"]


def step_seconds(settings: list[str], spins: str, cache: Path) -> float:
    """Return the seconds of a step of `ta train`, without the first ones, if threads spin `spins` times."""
    with tempfile.TemporaryDirectory() as folder:
        places = [f"paths.output_dir={folder}", f"paths.cache_dir={cache}"]
        command = [sys.executable, "-m", "tiny_audio.cli", "train", *settings, *QUIET, *places]
        subprocess.run(command, env={**os.environ, "GOMP_SPINCOUNT": spins}, check=True, capture_output=True)
        (written,) = Path(folder).glob("*/metrics.jsonl")
        rows = [json.loads(line) for line in written.read_text().splitlines()]
    rows = [row for row in rows if "train/loss" in row or "ctc_warmup/loss" in row]
    first, last = rows[1], rows[-2]  # an evaluation may follow the last
    return (last["time"] - first["time"]) / (last["step"] - first["step"])


def main() -> None:
    """Time all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=QUICKSTART, help="of `ta train`; default: the quickstart's")
    parser.add_argument("--spins", nargs="+", default=["0", "100", "1000", "10000", "300000"], help="values to try")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        step_seconds(args.settings, "0", Path(cache))
        print("| GOMP_SPINCOUNT | ms a step | beside one busy process |\n|---|---|---|")
        for spins in args.spins:
            alone = step_seconds(args.settings, spins, Path(cache))
            with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
                try:
                    busy = step_seconds(args.settings, spins, Path(cache))
                finally:
                    other.kill()
            print(f"| {int(spins):,} | {1000 * alone:.0f} | {1000 * busy:.0f} |", flush=True)


if __name__ == "__main__":
    main()
