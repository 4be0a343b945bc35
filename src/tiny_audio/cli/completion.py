"""`ta completion` and `ta --install-completion`: completion by Tab in bash, zsh and fish.

The shells call this program, so no list is kept twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from ..config import (
    ATTENTIONS,
    AUGMENTATIONS,
    DEVICES,
    ENCODER_WINDOWS,
    METRICS,
    PRECISIONS,
    PROJECTORS,
    SCHEDULES,
    TEXT_CASES,
    Config,
)
from ..errors import UserError
from . import COMMANDS
from .compose import GROUPS, choices, shipped_folder
from .options import Parser

DESCRIPTION = "Print the script that completes commands, settings, experiments, presets and files of `ta` in a shell."
EPILOG = """\
`ta --install-completion` sets it up for every new shell. By hand:
  bash   echo 'eval "$(ta completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(ta completion zsh)"' >> ~/.zshrc      after the line with compinit
  fish   ta completion fish > ~/.config/fish/completions/ta.fish"""
SCRIPTS = {
    # bash treats the text after `=` as a separate word.
    "bash": """\
_ta() {
    local word="${COMP_LINE:0:COMP_POINT}"
    word="${word##*[[:space:]]}"
    local IFS=$'\\n'
    COMPREPLY=($(ta completion words "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
    if [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
    if [[ $word == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}"); fi
}
complete -o default -F _ta ta
""",
    "zsh": """\
_ta() {
    local -a found
    found=("${(@f)$(ta completion words "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    if [[ -z "$found" ]]; then compset -P '*='; _files; return; fi
    compadd -Q -S '' -- ${(M)found:#*=}
    compadd -Q -- ${found:#*=}
}
compdef _ta ta
""",
    # fish adds files to all suggestions, unless this is switched off.
    "fish": """\
function __ta_offers
    set -l word (commandline -ct)
    set -l found (ta completion words (string join " " -- (commandline -opc) $word) 2>/dev/null)
    if test -n "$found"
        printf '%s\\n' $found
    else
        set -l key (string match -r '^.*=' -- $word; or echo)
        printf '%s\\n' $key(__fish_complete_path (string replace -r '^.*=' '' -- $word))
    end
end
complete -c ta -f -a '(__ta_offers)'
""",
}
COMMENT = "# The Tab key completes `ta`."
COMPINIT = "autoload -Uz compinit && compinit"
SUBCOMMANDS = {"data": ("check", "preview"), "completion": tuple(SCRIPTS)}
VALUES = {
    "model.projector_type": tuple(PROJECTORS),
    "data.text_case": TEXT_CASES,
    "data.augmentation": AUGMENTATIONS,
    "training.lr_schedule": SCHEDULES,
    "training.metric_for_best": METRICS,
    "hardware.mixed_precision": PRECISIONS,
    "hardware.attention": ATTENTIONS,
    "hardware.device": DEVICES,
    "device": DEVICES,
    "model.encoder_window": ENCODER_WINDOWS,
    "model.encoder": ("pocket",),
    "model.decoder": ("pocket",),
}


def run(argv: list[str]) -> int:
    """Run `ta completion` with these arguments and return the exit status.

    Raises:
        UserError: the shell is not supported.
    """
    parser = Parser("ta completion", "ta completion bash|zsh|fish", DESCRIPTION, EPILOG)
    parser.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")
    parser.add_argument(
        "line", nargs="?", default="", metavar="LINE", help="with SHELL `words`: what Tab offers after it"
    )
    args = parser.read(argv)
    if args.shell == "words":
        print("\n".join(offers(args.line)))
    elif args.shell in SCRIPTS:
        print(SCRIPTS[args.shell], end="")
    else:
        raise UserError(f"{args.shell} is not known; `ta completion bash`, zsh or fish.")
    return 0


def offers(line: str) -> list[str]:
    """Return the words that can replace the last word of a command line; none if it can be a file."""
    _, *typed, last = line.split(" ") if " " in line else ("ta", "")
    command, *rest = [word for word in typed if word] or [""]
    first = COMMANDS if not command else SUBCOMMANDS.get(command, ()) if not rest else ()
    if first:
        return [name for name in first if name.startswith(last)]
    dashes = last[: len(last) - len(last.lstrip("-"))]
    key, sign, value = last.removeprefix(dashes).partition("=")
    settings = dict(settings_of(Config)) if command in ("train", "eval", "data") else {}
    if sign:
        known = sorted(choices(GROUPS[key], [shipped_folder()])) if key in GROUPS else _values(key, settings.get(key))
        return [f"{dashes}{key}={option}" for option in known if option.startswith(value)]
    names = dict.fromkeys(
        [*(GROUPS if settings else ()), *settings, *(options_of(command, *rest[:1]) if command != "train" else ())]
    )
    return [f"{dashes}{name}=" for name in names if name.startswith(key)]


def settings_of(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all settings in a dataclass, such as `training.max_steps`, each with its type."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from settings_of(hints[field.name], f"{name}.")
        else:
            yield name, hints[field.name]


def options_of(command: str, first: str = "") -> Sequence[str]:
    """Return the options of a command, in the order of its help; `first` is the first word after it."""
    if command not in COMMANDS:
        return []
    parts = [first] if first in SUBCOMMANDS.get(command, ()) else []
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module("." + command.replace("-", "_"), __package__).run([*parts, "--help"])
    found = re.findall(r"^ +--([a-z][a-z-]*)", text.getvalue(), re.MULTILINE)
    found += re.findall(r"^ +-\w, --([a-z][a-z-]*)", text.getvalue(), re.MULTILINE)
    return [name.replace("-", "_") for name in dict.fromkeys(found) if name != "help"]


def _values(key: str, kind: Any) -> Sequence[str]:
    return ("true", "false") if kind is bool else VALUES.get(key, ())


def install(words: Sequence[str]) -> int:
    """Make every new shell of the user complete `ta`, print what was done, and return the exit status.

    Args:
        words: the shell's name; empty: that of `$SHELL`.

    Raises:
        UserError: the shell is not supported, or its file cannot be written.
    """
    from ..files import write_whole  # slow, and not needed to answer the Tab key

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
