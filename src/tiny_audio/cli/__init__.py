"""`ta`: find a command and run it. The module of a command is only imported when the command is run."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from .. import __version__
from ..config_errors import did_you_mean
from ..errors import UserError
from .commands import COMMANDS, INSTALL, help_text
from .console import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ta` with these arguments (default: those of the process) and return the exit status."""
    # By default, threads of a parallel loop spin while they wait. If processes that decode audio share the cores, this
    # is slow: training on two busy cores took 252 s instead of 35 s.
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
    from .install import install  # like the commands, imported when it is run

    return install(words)


def _command(name: str) -> Callable[[list[str]], int]:
    def run(argv: list[str]) -> int:
        if name in COMMANDS:
            status: int = importlib.import_module("." + name.replace("-", "_"), __name__).run(argv)
            return status
        hint = did_you_mean(name, COMMANDS)
        raise UserError(f"there is no command {name}.{hint} `ta --help` lists them.")

    return run
