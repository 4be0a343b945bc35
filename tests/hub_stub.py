"""A Hub on this machine: serves folders as repositories and takes uploads of models, as far as `huggingface_hub` asks.

Files come by way of a redirect to another address, in whole or in part, as they do from the Hub's own storage. It can
be as far away as the Hub is (`latency`), and as strict (`limit`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubStub(ThreadingHTTPServer):
    """Serves `root/OWNER/NAME/...` as datasets, and `root/models/OWNER/NAME/...` as models.

    Attributes:
        gated: repositories whose files need terms to be accepted; they are listed all the same.
        requests: `METHOD path` of every request.
        sent: bytes of files that were sent.
        failures: how many of the next requests for a file's content break off.
        latency: seconds before each answer.
        limit: requests that the Hub, not its storage, answers in `window` seconds; beyond them it answers 429.
        refused: how many of them.
        may_write: what its tokens are and may do: `token -> users`; anybody else is refused.
        private: repositories that were made so.
        valid_from: addresses of the storage that were given out before this number are no longer valid; who asks for
            `/expire` raises it.
    """

    daemon_threads = True

    def __init__(self, root: Path, gated: frozenset[str] = frozenset()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.gated = root, gated
        self.requests: list[str] = []
        self.sent = 0
        self.failures = 0
        self.latency = 0.0
        self.limit: int | None = None
        self.window = 1.0
        self.refused = 0
        self.may_write: dict[str, set[str]] = {}
        self.private: set[str] = set()
        self.valid_from = 0
        self.given = 0
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def wait_for_turn(self) -> float:
        """Seconds until a request would be answered; 0 where it is."""
        if self.limit is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            while self._times and self._times[0] < now - self.window:
                self._times.popleft()
            if len(self._times) >= self.limit:
                self.refused += 1
                return self._times[0] + self.window - now
            self._times.append(now)
            return 0.0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: HubStub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        """Make a repository, say how a file is to be uploaded, commit."""
        body = self.read_body()
        self.server.requests.append(f"{self.command} {self.path}")
        parts = unquote(self.path.split("?")[0]).strip("/").split("/")
        users = self.server.may_write.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        models = self.server.root / "models"
        if parts == ["api", "validate-yaml"]:
            return self.send_json({"errors": [], "warnings": []})
        if users is None:
            return self.answer(401, b'{"error": "Invalid username or password."}')
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] not in users:
                return self.answer(403, b'{"error": "no rights"}')
            if (models / name).is_dir():
                return self.answer(409, json.dumps({"url": f"{self.server.endpoint}/{name}"}).encode())
            (models / name).mkdir(parents=True)
            (models / name / ".gitattributes").write_text("*.safetensors filter=lfs")
            if asked.get("visibility") == "private":
                self.server.private.add(name)
            return self.send_json({"url": f"{self.server.endpoint}/{name}"})
        if parts[2:] == ["info", "lfs", "objects", "batch"]:
            return self.send_json(
                {"transfer": "basic", "objects": [self.place(one) for one in json.loads(body)["objects"]]}
            )
        name = "/".join(parts[2:4])
        if parts[:2] != ["api", "models"] or not (models / name).is_dir():
            return self.answer(404)
        if parts[4] == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular"}
                for file in json.loads(body)["files"]
            ]
            return self.send_json({"files": [mode | {"shouldIgnore": False} for mode in modes]})
        if parts[4] == "commit":
            self.commit(models / name, [json.loads(line) for line in body.splitlines()])
            return self.send_json({"commitUrl": f"{self.server.endpoint}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        return self.answer(404)

    def do_PUT(self) -> None:
        """Take the content of a large file."""
        content = self.read_body()
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.failures > 0:
            self.server.failures -= 1
            return self.answer(400)
        place = self.server.root / "lfs" / self.path.rpartition("/")[2]
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
        return self.answer(200)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Say where a large file goes, unless it is there."""
        there = (self.server.root / "lfs" / wanted["oid"]).is_file()
        actions = {"upload": {"href": f"{self.server.endpoint}/lfs/{wanted['oid']}", "header": {}}}
        return wanted | ({} if there else {"actions": actions})

    def commit(self, repository: Path, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                continue
            file = repository / value["path"]
            if line["key"] == "deletedFile":
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "lfsFile":
                file.write_bytes((self.server.root / "lfs" / value["oid"]).read_bytes())
            else:
                file.write_bytes(base64.b64decode(value["content"]))

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        time.sleep(self.server.latency)
        parts = unquote(self.path.split("?")[0]).strip("/").split("/")
        if parts[0] == "expire":
            self.server.valid_from = self.server.given + 1
            return self.answer(200)
        if parts[0] == "storage":
            if int(self.path.rpartition("given=")[2]) < self.server.valid_from:
                self.server.requests.append("expired")
                return self.answer(403)
            return self.send_file(self.server.root.joinpath(*parts[1:]))
        if (seconds := self.server.wait_for_turn()) > 0:
            return self.answer(429, headers={"Retry-After": str(math.ceil(seconds))})
        api = parts[0] == "api" and parts[1] in ("datasets", "models")
        if not api and parts[0] != "datasets":
            parts = ["models", *parts]
        name = "/".join(parts[2:4] if api else parts[1:3])
        repository = self.server.root / ("models" if "models" in parts[:2] else "") / name
        if not repository.is_dir() or "/" not in name:
            return self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
        if api and "revision" in parts and parts[-1] not in (COMMIT, "main"):
            return self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        if api and "tree" in parts:
            return self.send_tree(repository, "/".join(parts[6:]))
        if api:
            siblings = [
                {"rfilename": file.relative_to(repository).as_posix(), "size": file.stat().st_size}
                for file in sorted(repository.rglob("*"))
                if file.is_file()
            ]
            private = name in self.server.private
            return self.send_json({"id": name, "sha": COMMIT, "siblings": siblings, "private": private})
        if name in self.server.gated:
            return self.answer(403, headers={"X-Error-Code": "GatedRepo"})
        file = repository.joinpath(*parts[5:])
        if not file.is_file():
            return self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        # Another host, as at the Hub: redirects within one are followed before the headers here are read.
        storage = self.server.endpoint.replace("127.0.0.1", "localhost") + "/storage"
        self.server.given += 1
        place = file.relative_to(self.server.root).as_posix()
        headers = {
            "Location": f"{storage}/{place}?given={self.server.given}",
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(file.stat().st_size),
            "X-Linked-ETag": f'"{hashlib.sha256(file.read_bytes()).hexdigest()}"',
        }
        return self.answer(302, headers=headers)

    def send_tree(self, repository: Path, folder: str) -> None:
        find = Path.rglob if "recursive=true" in self.path.lower() else Path.glob
        entries = sorted(find(repository / folder, "*"))
        listed = [
            {
                "type": "file" if entry.is_file() else "directory",
                "oid": COMMIT,
                "size": entry.stat().st_size if entry.is_file() else 0,
                "path": entry.relative_to(repository).as_posix(),
            }
            for entry in entries
        ]
        self.send_json(listed)

    def send_file(self, file: Path) -> None:
        content = file.read_bytes()
        headers = {"ETag": f'"{file}"', "Accept-Ranges": "bytes"}
        status, span = 200, self.headers.get("Range", "").removeprefix("bytes=")
        if span:
            first, _, last = span.partition("-")
            begin, end = int(first or 0), min(int(last), len(content) - 1) if first and last else len(content) - 1
            if not first:  # the last bytes
                begin = max(0, len(content) - int(last))
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
            status, content = 206, content[begin : end + 1]
        if self.command == "GET" and self.server.failures:
            self.server.failures -= 1
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return None
        if self.command == "GET":
            self.server.sent += len(content)
        return self.answer(status, content, headers)

    def send_json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(root: Path, gated: frozenset[str] = frozenset()) -> Iterator[HubStub]:
    server = HubStub(root, gated)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub_environment(endpoint: str, folder: Path) -> dict[str, str]:
    """Variables that make a process take `endpoint` for the Hub, and `folder/hf` for its cache."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "",
    }


@contextmanager
def at_hub(endpoint: str, folder: Path) -> Iterator[Path]:
    """Within the block this process takes `endpoint` for the Hub and works in `folder`, as one that starts there would.

    Its caches are `folder/hf`; what an earlier block keeps in memory is let go of. Gives `folder/cache`, for ours.
    """
    import datasets
    import pytest
    import transformers
    from huggingface_hub import close_session, constants

    from tiny_audio.data import hub_requests, remote
    from tiny_audio.data.stream import READER_NAME

    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_TOKEN", "")
        patch.setattr(constants, "ENDPOINT", endpoint)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf/hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # it knows the Hub of an earlier block
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf/datasets")
        patch.setattr(hub_requests, "PAUSE", hub_requests.Pause())
        remote._open_arrow.cache_clear()
        try:
            yield folder / "cache"
        finally:
            remote._open_arrow.cache_clear()
            deadline = time.monotonic() + 20
            for thread in threading.enumerate():  # they would go on with a closed session, and leave a socket open
                if thread.name.startswith(READER_NAME):
                    thread.join(max(0.0, deadline - time.monotonic()))
            close_session()
