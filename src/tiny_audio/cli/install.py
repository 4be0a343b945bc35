"""`ta --install-completion [bash|zsh|fish]`: completion by Tab in every new shell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..files import write_whole
from .completion import SCRIPTS

COMMENT = "# The Tab key completes `ta`."
COMPINIT = "autoload -Uz compinit && compinit"


def install(words: Sequence[str]) -> int:
    """Make the user's shell complete `ta`, print what was done, and return the exit status.

    Args:
        words: the shell's name; empty: that of `$SHELL`.

    Raises:
        UserError: the shell is not supported, or its file cannot be written.
    """
    shell = words[0] if words else Path(os.environ.get("SHELL", "")).name
    if shell not in SCRIPTS or len(words) > 1:
        known = "ta --install-completion bash, zsh or fish"
        raise UserError(f"{' '.join(words) or '$SHELL'} names no shell that is known; {known}.")
    file, content = _place(shell)
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        after = content if shell == "fish" else _with_lines(before, shell)
        if after == before:
            print(f"{file} has it already. Open a new {shell}, type `ta tr`, and press Tab.")
            return 0
        # A link stays a link, for users who keep their settings in a repository.
        target = file.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode if target.exists() else None
        write_whole(target, after.encode())
        if mode is not None:
            target.chmod(mode)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be changed ({error}); `ta completion --help` says what to write.") from None
    print(f"Added to {file}. Open a new {shell}, type `ta tr`, and press Tab.")
    return 0


def _place(shell: str) -> tuple[Path, str]:
    """Return the file that a shell reads when it starts, and its content if only `ta` uses the file."""
    home = Path.home()
    if shell == "fish":
        return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "fish/completions/ta.fish"), SCRIPTS["fish"]
    return (home / ".bashrc" if shell == "bash" else Path(os.environ.get("ZDOTDIR") or home, ".zshrc")), ""


def _with_lines(text: str, shell: str) -> str:
    """Return a shell's start file with the line for `ta` at its end; unchanged if the line is there."""
    line = f'eval "$(ta completion {shell})"'
    if any(one.strip() == line for one in text.splitlines()):
        return text
    compinit = [COMPINIT] if shell == "zsh" and "compinit" not in text else []
    end = "" if not text or text.endswith("\n") else "\n"
    return text + end + "\n".join(["", COMMENT, *compinit, line, ""])
