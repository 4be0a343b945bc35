"""Upload a trained model to the Hugging Face Hub: the exported folder and its card, in one commit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..data.hub_requests import HTTP_CLIENTS
from ..errors import UserError
from ..inference.opened import open_model
from ..model.checkpointed import rebuild
from ..model.weights import RECORD_FILE, causes, first_line
from .card import build_card, read_figures
from .folder import write_folder

CARD = "README.md"
# The files that `ta export` and its libraries write; nothing else of a folder is uploaded.
SHIPPED = re.compile(
    r"((encoder|decoder)/)?((config|generation_config|processor_config|preprocessor_config|special_tokens_map|"
    r"tokenizer\w*|added_tokens|vocab|model\S*)\.json|chat_template\.jinja|(vocab|merges)\.txt|model\S*\.safetensors|"
    r"[\w.-]+\.model)|tiny_audio/(model\.json|weights\.safetensors)|README\.md|(LICEN[CS]E|NOTICE)(\.txt|\.md)?"
)
HARMLESS = {".gitattributes", CARD, "LICENSE"}  # the files that the Hub puts into a new repository
SECRET = re.compile(r"hf_[A-Za-z0-9]{30,}")


@dataclass(frozen=True)
class Parcel:
    """The files to upload.

    Attributes:
        folder: an exported one.
        record: its record of itself.
        files: bytes of each file by its path in the folder, without the card.
        left: files in the folder that are not uploaded.
        made: the card that was made.
        card: README.md: that of the folder, or else `made`.
    """

    folder: Path
    record: dict[str, Any]
    files: dict[str, int]
    left: list[str]
    made: str
    card: str


def check_repo(repo: str) -> None:
    """Refuse a name that is not `user/name`.

    Raises:
        UserError: it is not; names it.
    """
    try:
        validate_repo_id(repo)
        if repo.count("/") == 1:
            return
    except HFValidationError:
        pass
    raise UserError(f"repo={repo} is not the name of a repository; write user/name.")


@contextmanager
def packed(
    checkpoint: str | Path,
    repo: str,
    report: str | Path | None = None,
    license: str | None = None,
    encoder: str | None = None,
    decoder: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Parcel]:
    """Export a model, unless it is an exported folder, and write its card; on exit the export is deleted.

    Args:
        checkpoint: an exported folder, a checkpoint or the folder of a run.
        repo: `user/name`.
        report: of `ta eval report=FOLDER`; None: `eval.json` beside the checkpoint or in its run's folder, if any.
        license: the publisher's choice; None: what its parts allow.
        encoder, decoder: the present folders of a checkpoint's models, if they were moved.
        dtype: of the weights of a checkpoint.

    Raises:
        UserError: it cannot be read, or holds something that must not be published.
    """
    check_repo(repo)
    opened = open_model(checkpoint)
    with TemporaryDirectory() as temporary:
        folder = Path(opened.path)
        if opened.encoder is None:  # a checkpoint
            folder = Path(temporary, "exported")
            write_folder(
                rebuild(opened.saved, opened.path, torch.float32, encoder, decoder), opened.saved, folder, dtype
            )
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        found = Path(report) if report is not None else _find_report(Path(opened.path))
        figures = [] if found is None else read_figures(found, record["provenance"])
        made = build_card(record, repo, figures, license)
        own = folder / CARD
        card = own.read_text(encoding="utf-8") if own.is_file() else made
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {name: (folder / name).stat().st_size for name in names if SHIPPED.fullmatch(name) and name != CARD}
        _check_content(folder, [name for name in files if name.endswith(".json")], card)
        left = [name for name in names if not SHIPPED.fullmatch(name)]
        yield Parcel(folder, record, files, left, made, card)


def _find_report(path: Path) -> Path | None:
    """Return the report in a folder, beside a checkpoint, or in its run's folder."""
    places = [path] if path.is_dir() else [path.parent, path.parent.parent]
    return next((place for place in places if (place / "eval.json").is_file()), None)


def _check_content(folder: Path, names: list[str], card: str) -> None:
    """Refuse texts that contain an access token of the Hub, and values that are paths of this machine.

    Raises:
        UserError: there is one; names the file.
    """
    token = get_token()
    texts = {name: (folder / name).read_text(encoding="utf-8", errors="replace") for name in names} | {CARD: card}
    for name, text in texts.items():
        if SECRET.search(text) or (token and token in text):
            raise UserError(f"{name} holds a token of the Hub; take it out, and nothing was uploaded.")
        if Path(name).name in ("tokenizer.json", "vocab.json", CARD):
            continue  # free text, which may look like a path
        for value in _strings(json.loads(text)):
            if value.startswith("/") and len(Path(value).parts) > 2 and Path(value).exists():
                raise UserError(f"{name} names {value}, a path of this machine; take it out, and nothing was uploaded.")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


def upload(parcel: Parcel, repo: str, private: bool = False) -> str:
    """Upload a model in one commit; it replaces an earlier upload of `ta push`.

    Args:
        parcel: as `packed` yields it.
        repo: `user/name`; created if it does not exist.
        private: only its owner, and users with permission, can see it.

    Returns:
        The address of its page.

    Raises:
        UserError: there is no token or no right, the repository holds something else, or the Hub cannot be reached.
    """
    token = get_token()
    if not token:
        raise UserError("there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN.")
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    with _explained(repo):
        stale = _stale(_look_up(api, repo), parcel, repo, private)
        api.create_repo(repo, private=private, exist_ok=True)
        added = [CommitOperationAdd(name, parcel.folder / name) for name in parcel.files]
        card = CommitOperationAdd(CARD, parcel.card.encode())
        removed = [CommitOperationDelete(name) for name in stale]
        message = f"Upload step {parcel.record['provenance']['step']} with Tiny Audio"
        api.create_commit(repo, [card, *added, *removed], commit_message=message)
    return f"{constants.ENDPOINT}/{repo}"


def _look_up(api: HfApi, repo: str) -> ModelInfo | None:
    try:
        return api.model_info(repo)
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401:
            raise
        return None


def _stale(there: ModelInfo | None, parcel: Parcel, repo: str, private: bool) -> list[str]:
    """Return the files of an earlier upload that the new one does not have.

    Raises:
        UserError: the repository holds something else, or is public although `private` is asked for.
    """
    if there is None:
        return []
    names = {file.rfilename for file in there.siblings or []}
    if (others := sorted(names - HARMLESS)) and RECORD_FILE not in names:
        some = ", ".join(others[:3])
        raise UserError(f"{repo} holds something else ({some}); name another repository, or delete that one.")
    if private and not there.private:
        raise UserError(f"private=true, and {repo} exists and is public; make it private on its page, or leave it out.")
    return sorted(names - HARMLESS - set(parcel.files))


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn an error of the Hub or the network into one line that says what to do."""
    again = "type the command again: what was uploaded is not sent twice"
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # If an upload fails, the client's error names only the file; its cause is the Hub's answer.
        answers = [cause for cause in causes(error) if isinstance(cause, HfHubHTTPError)]
        lost = any(isinstance(cause, ConnectionError | TimeoutError) or _of_client(cause) for cause in causes(error))
        if isinstance(error, OfflineModeIsEnabled):
            why = "HF_HUB_OFFLINE is set; unset it to upload"
        elif answers:
            why = _refused(answers[0], repo.partition("/")[0], again)
        elif lost:
            why = f"{constants.ENDPOINT} cannot be reached; check the network, and {again}"
        else:
            raise
        raise UserError(f"{repo}: {why}.") from None


def _of_client(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in HTTP_CLIENTS


def _refused(error: HfHubHTTPError, user: str, again: str) -> str:
    status = error.response.status_code
    if status == 401:
        return "the Hub does not know this token; log in again with `hf auth login`, or set HF_TOKEN to another"
    if status == 403:
        return f"this token may not write there; make one with the right to write to {user}, or name your own user"
    if status in (408, 429) or status >= 500:
        return f"the Hub answered {status}; wait a little, and {again}"
    return f"the Hub refused it ({status}: {first_line(error)})"
