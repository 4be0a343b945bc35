"""An exported folder behind vLLM, against `ta infer`: the same texts, and how fast.

    python benchmarks/serving.py FOLDER [--vllm vllm-venv/bin/vllm] [--clips N] [-- OPTIONS OF vllm serve]

Starts `vllm serve FOLDER`, sends the bundled recordings of `dev` to `/v1/audio/transcriptions` with the `openai` client
at 1, 4 and 16 at once, and compares texts and seconds with those of `tiny_audio.load_model(FOLDER)`. vLLM, with the
plugin (`tiny-audio[vllm]`), may live in an environment of its own; the client runs there too. Both sides read the same
samples, since decoders of Opus differ a little.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

AT_ONCE = (1, 4, 16)
START_SECONDS = 900
NO_CACHES = ("--no-enable-prefix-caching", "--mm-processor-cache-gb", "0")  # the same clips are sent three times


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vllm", type=Path, default=Path("vllm"))
    parser.add_argument("--clips", type=int, default=200)
    own, _, options = (" ".join(sys.argv[1:]) + " ").partition(" -- ")
    args = parser.parse_args(own.split())
    with tempfile.TemporaryDirectory() as temporary:
        files, seconds = write_clips(Path(temporary), args.clips)
        expected, here = transcribe_here(args.folder, files)
        port = free_port()
        log = Path(temporary, "server.log")
        with log.open("w") as out:
            command = [args.vllm, "serve", args.folder, "--port", str(port), "--served-model-name", "model"]
            server = subprocess.Popen([*map(str, command), *NO_CACHES, *options.split()], stdout=out, stderr=out)
        try:
            wait_for(port, server, log)
            found = send(args.vllm.parent / "python", port, files)
        finally:
            server.terminate()
            server.wait()
    print(f"{len(files)} recordings, {seconds:.0f} s of audio")
    print("| | texts as here | s | x real time |\n|---|---:|---:|---:|")
    print(f"| tiny_audio, batches of 8 | | {here:.1f} | {seconds / here:.1f} |")
    for count, run in zip(AT_ONCE, found, strict=True):
        same = sum(one == other for one, other in zip(run["texts"], expected, strict=True))
        rate = seconds / run["seconds"]
        print(f"| vLLM, {count} at once | {same} of {len(files)} | {run['seconds']:.1f} | {rate:.1f} |")


def write_clips(folder: Path, count: int) -> tuple[list[Path], float]:
    """Write clips as float samples; return their paths and seconds together."""
    import soundfile

    from tiny_audio.audio import load_audio
    from tiny_audio.data.packed import recording_at
    from tiny_audio.pocket import SPEECH_DIR

    rows = [json.loads(line) for line in Path(SPEECH_DIR, "dev.jsonl").read_text().splitlines()][:count]
    files, seconds = [], 0.0
    for number, row in enumerate(rows):
        samples = load_audio(recording_at(Path(SPEECH_DIR, row["audio"])))
        files.append(folder / f"{number:04d}.wav")
        soundfile.write(files[-1], samples, 16_000, subtype="FLOAT")
        seconds += len(samples) / 16_000
    return files, seconds


def transcribe_here(folder: Path, files: list[Path]) -> tuple[list[str], float]:
    """Return the texts of `tiny_audio`, and the seconds that they took once the model was loaded."""
    import tiny_audio
    from tiny_audio.inference import Decoding

    # Servers leave nothing out and cut nothing below 30 s.
    model = tiny_audio.load_model(folder, decoding=Decoding(piece_seconds=30, silence_seconds=0, loop_guard=False))
    start = time.perf_counter()
    texts = [one.text for one in model.transcribe(list(files))]
    return texts, time.perf_counter() - start


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(1)
    sys.exit(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def send(python: Path, port: int, files: list[Path]) -> list[dict[str, object]]:
    """Have the client of the server's environment send all recordings; return texts and seconds for each of AT_ONCE."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import serving; serving.client(*sys.argv[2:])"
    command = [str(python), "-c", code, str(Path(__file__).parent), str(port), *map(str, files)]
    found: list[dict[str, object]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def client(port: str, *files: str) -> None:
    """Send recordings, and print what came back as JSON; it runs in the server's environment."""
    from openai import OpenAI

    api = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    contents = [(Path(file).name, Path(file).read_bytes()) for file in files]

    def ask(content: tuple[str, bytes]) -> str:
        return api.audio.transcriptions.create(model="model", file=content, temperature=0).text.strip()

    ask(contents[0])
    found = []
    for count in AT_ONCE:
        start = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            texts = list(pool.map(ask, contents))
        found.append({"texts": texts, "seconds": time.perf_counter() - start})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
