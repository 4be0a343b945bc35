"""The commands of `ta`, and what `ta --help` prints."""

from __future__ import annotations

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


def help_text() -> str:
    """Return what `ta --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ta COMMAND ...",
            "",
            "Train your own speech recognizer in an evening.",
            "",
            "commands:",
            *lines,
            "",
            "`ta COMMAND --help` says more; `ta --version` prints the version; `ta --install-completion` sets up the",
            "Tab key to complete commands and settings.",
        ]
    )
