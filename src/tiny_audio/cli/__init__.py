"""`ta`: find a command and run it. The module of a command is only imported when the command is run."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from .. import __version__
from ..config_errors import did_you_mean
from ..errors import UserError
from .console import run_command

# command -> what it does; a command is `run(argv) -> exit status` in the module of its name.
COMMANDS = {
    "train": "train a projector: ta train experiment=transcription",
    "infer": "transcribe recordings: ta infer checkpoint=PATH audio=test.wav",
    "eval": "evaluate every checkpoint of a run and mark the best",
    "clean-checkpoints": "delete checkpoints but the best and the newest",
    "average": "make one checkpoint from the best of a run",
    "export": "a model as a folder for transformers: ta export checkpoint=PATH output=FOLDER",
    "push": "a model to the Hugging Face Hub, with a card: ta push checkpoint=PATH repo=user/name",
    "serve": "an API on this machine, as OpenAI's: ta serve checkpoint=PATH",
    "demo": "try a model on a page in the browser: ta demo checkpoint=PATH",
    "data": "check the data before a run: ta data check, ta data preview",
    "plot": "draw the curves of one or several runs: ta plot outputs/transcription",
    "sweep": "search for good settings on this machine: ta sweep sweep.yaml",
    "benchmark": "measure a training step on this machine, before anything is downloaded",
    "doctor": "what this machine has, which experiments fit it, and which command to try first",
    "completion": "completion by Tab in a shell: ta completion bash",
}
INSTALL = "--install-completion"
HELP = """\
usage: ta COMMAND ...

Train your own speech recognizer in an evening.

commands:
{commands}

`ta COMMAND --help` says more; `ta --version` prints the version; `ta --install-completion` sets up the
Tab key to complete commands and settings."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ta` with these arguments (default: those of the process) and return the exit status."""
    # By default, threads of a parallel loop spin while they wait. If processes that decode audio share the cores, this
    # is slow: training on two busy cores took 252 s instead of 35 s. But threads that sleep at once need as long to
    # wake up as a small product takes. So they spin briefly: this is nearly as fast as either, whichever suits.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # On a CPU, oneDNN and torch each keep what they prepared for 1,024 sizes of products. Batches of clips hardly have
    # a size twice, so that took gigabytes; 32 sizes are as fast.
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "32")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"ta {__version__}")
        return 0
    name, *rest = arguments
    if name.startswith(f"{INSTALL}="):
        name, shell = name.split("=", 1)
        rest.insert(0, shell)
    title = f"ta {name}" if name in (*COMMANDS, INSTALL) else "ta"
    return run_command(title, partial(run, name), rest)


def run(name: str, argv: list[str]) -> int:
    """Run a command with these arguments and return the exit status.

    Raises:
        UserError: there is no such command; or one line for the person who typed it.
    """
    if name == INSTALL:
        status: int = _module("completion").install(argv)
    elif name in COMMANDS:
        status = _module(name.replace("-", "_")).run(argv)
    else:
        raise UserError(f"there is no command {name}.{did_you_mean(name, COMMANDS)} `ta --help` lists them.")
    return status


def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __name__)


def help_text() -> str:
    """Return what `ta --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    return HELP.format(commands="\n".join(f"  {name:<{width}}{text}" for name, text in COMMANDS.items()))
