"""A stand-in for the W&B server on this machine: enough of its API for `wandb sweep`, `wandb agent` and their runs."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY, PROJECT, SWEEP = "someone", "tiny-audio", "abc123"
Trial = dict[str, Any]


class WandbStub:
    """Hands out trials one after the other, then tells the agent to leave.

    Attributes:
        trials: what is handed out: the values of each trial, by parameter.
        sweep: the configuration that `wandb sweep` sent, as YAML.
        history: metrics that each run sent, in order.
        unknown: GraphQL that was not understood.
    """

    def __init__(self, trials: list[Trial]) -> None:
        self.trials = trials
        self.sweep: str | None = None
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.unknown: list[str] = []
        self._sent = 0

    def __enter__(self) -> WandbStub:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                content = json.dumps(stub.answer(self.path, body)).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """Answer a request: GraphQL, or a run's stream of metrics."""
        if path.endswith("/file_stream"):
            run, files = path.split("/")[-2], json.loads(body).get("files") or {}
            lines = files.get("wandb-history.jsonl", {}).get("content", [])
            self.history.setdefault(run, []).extend(map(json.loads, lines))
            return {}
        if path.startswith("/graphql"):
            request = json.loads(body)
            data = self.query(request["query"], request.get("variables") or {})
            # Without `errors`, W&B's client falls over a field that it asked for and did not get.
            return {"data": data} if data else {"errors": [{"message": "not part of this stand-in"}]}
        return {}

    def query(self, text: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer GraphQL."""
        project = {"id": "p", "name": PROJECT, "entity": {"id": "e", "name": ENTITY}}
        if "agentHeartbeat" in text:
            return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(self.commands(variables))}}
        if "createAgent" in text:
            return {"createAgent": {"agent": {"id": "a"}}}
        if "upsertSweep" in text:
            self.sweep = variables["config"]
            return {"upsertSweep": {"sweep": {"name": SWEEP, "project": project}, "configValidationWarnings": []}}
        if "upsertBucket" in text:
            run = variables["name"]
            bucket = {
                "id": run,
                "name": run,
                "displayName": run,
                "sweepName": SWEEP,
                "config": "{}",
                "project": project,
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in text:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        if "RunResumeStatus" in text:  # no run of that name yet
            return {"model": {**project, "bucket": None}}
        if "ServerFeaturesQuery" in text:
            return {"serverInfo": {"features": []}}
        if "query ArtifactType(" in text:  # of a table: none of that name yet
            return {"project": {"artifact": None}}
        if "createArtifact(" in text:  # we have its content already, so that nothing is uploaded
            artifact = {"id": "t", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "t"}}}
            return {"createArtifact": {"artifact": artifact}}
        if "organization {" in text:
            return {"entity": {"organization": None}}
        if "sweep(" in text:
            sweep = {"id": "s", "name": SWEEP, "method": "bayes", "state": "RUNNING", "config": self.sweep}
            runs = {"edges": []}
            return {"project": {**project, "sweep": {**sweep, "runs": runs, "priorRuns": runs}}}
        if "viewer" in text:
            viewer = {"id": "v", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer}
        self.unknown.append(text)
        return {}

    def commands(self, variables: dict[str, Any]) -> list[dict[str, Any]]:
        """What the agent is to do next: a trial, as soon as the one before has ended."""
        if json.loads(variables.get("runState") or "{}"):
            return []
        if self._sent == len(self.trials):
            return [{"type": "exit"}]
        trial = self.trials[self._sent]
        self._sent += 1
        values = {name: {"value": value} for name, value in trial.items()}
        return [{"type": "run", "run_id": f"run{self._sent}", "program": "train.py", "args": values}]
