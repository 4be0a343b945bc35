"""A hundred requests at once to `ta serve`: good, broken, huge, slow to send, and cut off.

    python benchmarks/serve_load.py outputs/quickstart/checkpoints/final.pt src/tiny_audio/pocket/speech/audio/test

Prints what was answered, whether the good have what `transcribe` returns, the throughput against one by one, and the
memory of the server before, at most, and after. Exits with 1 where an answer is not the one that is due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import psutil

from tiny_audio import load_model

API = "/v1/audio/transcriptions"
LIMITS = ("max_upload_mb=5", "max_seconds=60", "timeout_seconds=20", "queue=64", "batch_size=8")
FORM = "multipart/form-data; boundary=b"
FIRST = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
HUGE_BYTES = 50_000_000
GOOD, BROKEN, HUGE, SLOW, CUT = "good", "broken", "huge", "slow", "cut off"
SHARES = {GOOD: 60, BROKEN: 16, HUGE: 8, SLOW: 8, CUT: 8}
DUE = {GOOD: {200}, BROKEN: {400}, HUGE: {413}, SLOW: {408}, CUT: {0}}
SETTLE_SECONDS = 5.0


class Memory(threading.Thread):
    """Looks at the resident memory of a process."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.most, self.done = psutil.Process(pid), 0, threading.Event()

    def now(self) -> int:
        """Return its bytes."""
        return self.process.memory_info().rss

    def run(self) -> None:
        """See `threading.Thread`."""
        while not self.done.wait(0.02):
            self.most = max(self.most, self.now())


async def good(client: httpx.AsyncClient, file: Path) -> tuple[int, str]:
    """Send a recording; come again as long as the queue is full."""
    while True:
        content = {"file": ("a.flac", file.read_bytes())}
        response = await client.post(API, files=content, data={"model": "m"})
        if response.status_code != 429:
            return response.status_code, response.json().get("text", "")
        await asyncio.sleep(float(response.headers["retry-after"]))


async def broken(client: httpx.AsyncClient, file: Path) -> tuple[int, str]:
    """Send half of a recording, noise, or a form without a recording."""
    content = file.read_bytes()
    wrong = random.choice([content[: len(content) // 2], random.randbytes(5_000), b""])
    while True:
        response = await client.post(API, files={"file": ("a.flac", wrong)})
        if response.status_code != 429:
            return response.status_code, response.json()["error"]["code"]
        await asyncio.sleep(float(response.headers["retry-after"]))


async def huge(client: httpx.AsyncClient, file: Path) -> tuple[int, str]:
    """Send ten times what is taken, half of the time without saying so before."""

    async def chunks():
        yield FIRST
        for _ in range(HUGE_BYTES // 100_000):
            yield bytes(100_000)

    headers = {"Content-Type": FORM}
    if random.random() < 0.5:
        response = await client.post(API, content=chunks(), headers=headers)
    else:
        response = await client.post(API, content=bytes(HUGE_BYTES), headers=headers)
    return response.status_code, response.json()["error"]["code"]


async def slow(client: httpx.AsyncClient, file: Path) -> tuple[int, str]:
    """Send some bytes a second, and read what is answered meanwhile."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)

    async def drops() -> None:
        while True:
            writer.write(bytes(10))
            await asyncio.sleep(0.2)

    writer.write(request_head(client, 1_000_000) + FIRST)
    sending = asyncio.create_task(drops())
    try:
        answered = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answered.partition(b"content-length: ")[2].split()[0])
        body = json.loads(await reader.readexactly(length))
        return int(answered.split()[1]), body["error"]["code"]
    finally:
        sending.cancel()
        writer.transport.abort()


async def cut(client: httpx.AsyncClient, file: Path) -> tuple[int, str]:
    """Hang up in the middle of an upload, or before the answer."""
    _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    body = FIRST + file.read_bytes() + b"\r\n--b--\r\n"
    writer.write(request_head(client, len(body)) + body[: random.choice([len(body) // 2, len(body)])])
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.transport.abort()
    return 0, "no answer was waited for"


def request_head(client: httpx.AsyncClient, length: int) -> bytes:
    """Return the head of a request with a body of so many bytes."""
    lines = (
        f"POST {API} HTTP/1.1",
        f"Host: {client.base_url.host}",
        f"Content-Length: {length}",
        f"Content-Type: {FORM}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


KINDS: dict[str, Callable[[httpx.AsyncClient, Path], Awaitable[tuple[int, str]]]] = {
    GOOD: good,
    BROKEN: broken,
    HUGE: huge,
    SLOW: slow,
    CUT: cut,
}


async def load(address: str, files: Sequence[Path], kinds: Sequence[str]) -> list[tuple[str, Path, int, str, float]]:
    """Send all requests at once; return kind, recording, status, text or code, and when it was answered, in seconds."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        started = time.perf_counter()

        async def one(kind: str, file: Path) -> tuple[str, Path, int, str, float]:
            try:
                status, text = await KINDS[kind](client, file)
            except httpx.HTTPError as error:
                status, text = -1, type(error).__name__
            return kind, file, status, text, time.perf_counter() - started

        return await asyncio.gather(*(one(kind, files[n % len(files)]) for n, kind in enumerate(kinds)))


async def one_by_one(address: str, files: Sequence[Path]) -> float:
    """Return the seconds that recordings take, each sent when the one before was answered."""
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        started = time.perf_counter()
        for file in files:
            assert (await good(client, file))[0] == 200
        return time.perf_counter() - started


def main() -> int:
    """Measure, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("recordings", type=Path, help="a folder")
    parser.add_argument("--device", default="cpu", help="of the server (default: %(default)s)")
    args = parser.parse_args()
    random.seed(0)
    found = sorted(path for path in args.recordings.iterdir() if path.suffix == ".flac")
    files = [found[n % len(found)] for n in range(SHARES[GOOD])]
    recognizer = load_model(args.checkpoint, args.device)
    expected = {file: one.text for file, one in zip(files, recognizer.transcribe(list(files)), strict=True)}
    del recognizer
    command = [sys.executable, "-m", "tiny_audio.cli", "serve", f"checkpoint={args.checkpoint}", "port=0"]
    environment = os.environ | {"TINY_AUDIO_API_KEY": ""}
    server = subprocess.Popen(
        [*command, f"device={args.device}", *LIMITS], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert server.stdout is not None
    try:
        address = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
        return measure(address, files, expected, Memory(server.pid))
    finally:
        server.terminate()
        assert server.wait(60) == 0


def measure(address: str, files: Sequence[Path], expected: dict[Path, str], memory: Memory) -> int:
    """Load a server, print what came of it, and return 1 where it is not what is due, else 0."""
    asyncio.run(load(address, files, [GOOD] * len(files)))  # what a first use allocates for good
    time.sleep(SETTLE_SECONDS)
    before = memory.now()
    memory.start()
    alone = asyncio.run(one_by_one(address, files))
    together = max(row[-1] for row in asyncio.run(load(address, files, [GOOD] * len(files))))
    kinds = [kind for kind, count in SHARES.items() for _ in range(count)]
    random.shuffle(kinds)
    answers = asyncio.run(load(address, files, kinds))
    time.sleep(SETTLE_SECONDS)
    memory.done.set()
    after = memory.now()
    wrong = 0
    for kind in SHARES:
        rows = [row for row in answers if row[0] == kind]
        counts = Counter((status, "" if kind == GOOD else text) for _, _, status, text, _ in rows)
        told = ", ".join(f"{count} x {status} {text}".strip() for (status, text), count in sorted(counts.items()))
        print(f"{kind:8} {len(rows):3}: {told}; the last after {max(row[-1] for row in rows):.1f} s")
        wrong += sum(status not in DUE[kind] for _, _, status, _, _ in rows)
    different = sum(kind == GOOD and text != expected[file] for kind, file, _, text, _ in answers)
    print(f"good ones whose text is not that of transcribe: {different} of {SHARES[GOOD]}")
    print(
        f"{len(files)} recordings one by one: {alone:.1f} s; at once: {together:.1f} s ({alone / together:.1f} times)"
    )
    megabytes = [round(amount / 1e6) for amount in (before, memory.most, after)]
    print(json.dumps(dict(zip(("MB before", "MB at most", "MB after"), megabytes, strict=True))))
    return int(wrong > 0 or different > 0)


if __name__ == "__main__":
    sys.exit(main())
