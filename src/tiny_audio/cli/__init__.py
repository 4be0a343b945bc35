"""`ta`: finds the command and hands over. A command's module is imported when it is run, and no sooner."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from .. import __version__
from ..config_errors import did_you_mean
from ..errors import UserError
from .console import run_command

# command -> what it does; each is `run(argv) -> exit status` of the module of its name.
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
    "data": "look at the data before a run: ta data check, ta data preview",
    "plot": "draw the curves of one or several runs: ta plot outputs/transcription",
    "sweep": "search for good settings on this machine: ta sweep sweep.yaml",
    "benchmark": "measure a training step on this machine, before anything is downloaded",
    "doctor": "what this machine has, which experiments fit it, and what to type first",
    "completion": "have a shell complete what is typed: ta completion bash",
}


INSTALL = "--install-completion"


def help_text() -> str:
    """Return what `ta --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ta COMMAND ...",
            "",
            "Train your own speech recogniser in an evening.",
            "",
            "commands:",
            *lines,
            "",
            "`ta COMMAND --help` says more; `ta --version` prints the version; `ta --install-completion` has the Tab",
            "key complete commands and settings.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ta` with these arguments (default: those of the process) and return the exit status."""
    # Threads of a parallel loop otherwise spin while they wait: where the cores are shared with the processes that
    # decode audio, training on two busy cores took 252 s instead of 35 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"ta {__version__}")
        return 0
    if arguments[0].partition("=")[0] == INSTALL:
        words = [*arguments[0].split("=", 1), *arguments[1:]][1:]
        return run_command(f"ta {INSTALL}", _install_completion, words)
    name = arguments.pop(0)
    return run_command(f"ta {name}" if name in COMMANDS else "ta", _command(name), arguments)


def _install_completion(words: list[str]) -> int:
    from .install import install  # as the commands: imported when it is run

    return install(words)


def _command(name: str) -> Callable[[list[str]], int]:
    def run(argv: list[str]) -> int:
        if name in COMMANDS:
            status: int = importlib.import_module("." + name.replace("-", "_"), __name__).run(argv)
            return status
        hint = did_you_mean(name, COMMANDS)
        raise UserError(f"there is no command {name}.{hint} `ta --help` lists them.")

    return run
