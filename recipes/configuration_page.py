"""Writes docs/configuration.md: every setting, from the schemas of config/ and the comments of configs/.

python recipes/configuration_page.py
"""

from __future__ import annotations

import re
from dataclasses import Field, fields, is_dataclass
from inspect import getsource
from pathlib import Path
from typing import Any, get_type_hints

from tiny_audio.config import Config, DatasetConfig

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/configuration.md"
FIELD = re.compile(r"^    (\w+): .*?(?:  # (.*))?$", re.MULTILINE)
SETTING = re.compile(r"^( *)(?:- )?(\w+):(?: [^#]*?)?(?: +# (.*))?$")

HEAD = """\
# Every setting

<!-- Written by recipes/configuration_page.py from src/tiny_audio/config/ and configs/. Change those, and run it. -->

You can override every setting on the command line, such as `training.batch_size=32`. What you type wins over all files:

```
ta train experiment=quickstart --cfg job   # every setting as a run would have it
ta train experiment=quickstart training.max_steps=100 --cfg job   # with one changed
```

A preset holds several settings and is chosen by its name:

| typed | presets in `configs/` |
|---|---|
| `experiment=` | {experiments} |
| `data=` | {data} |
| `training=` | {training} |

`--config-dir DIR` adds a folder of your own ([extending.md](extending.md#a-corpus)). The defaults below are those of
the schemas. A preset may set other values; `--cfg job` shows them. `null` means "not set".
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE.relative_to(ROOT)}")


def page() -> str:
    """Return the page."""
    names = {
        group: ", ".join(f"`{path.stem}`" for path in sorted((ROOT / "configs" / group).glob("*.yaml")))
        for group in ("experiments", "data", "training")
    }
    head = HEAD.format(**names)
    return "\n".join([head, *sections(Config, "", yaml_comments())])


def sections(schema: type, prefix: str, comments: dict[str, str]) -> list[str]:
    """Return the lines of a schema: a heading with its docstring, a table of its settings, and the schemas in it."""
    own, inner = [], []
    notes = source_comments(schema)
    hints = get_type_hints(schema)
    for item in fields(schema):
        key, hint = f"{prefix}{item.name}", hints[item.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            inner += sections(hint, f"{key}.", comments)
            continue
        meaning = comments.get(key) or notes.get(item.name, "")
        own.append(f"| `{key}` | {kind(hint)} | {default(item)} | {cell(meaning)} |")
        if hint == list[DatasetConfig] and item.name == "datasets":
            inner += sections(DatasetConfig, "data.datasets[].", comments)
    heading = f"## `{prefix.rstrip('.')}`" if prefix else "## The run"
    lines = [heading, "", " ".join((schema.__doc__ or "").split()), ""]
    if own:
        lines += ["| setting | type | default | meaning |", "|---|---|---|---|", *own, ""]
    return lines + inner


def kind(hint: Any) -> str:
    """Return a type as people write it."""
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    text = (
        text.replace("tiny_audio.config.data.DatasetConfig", "corpus")
        .replace("NoneType", "null")
        .replace("None", "null")
    )
    return text.replace(" | ", " or ")


def default(item: Field[Any]) -> str:
    """Return the default of a setting as it is typed."""
    value = item.default_factory() if callable(item.default_factory) else item.default
    if isinstance(value, bool) or value is None:
        value = {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, list):
        value = f"[{', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in value)}]"
    elif isinstance(value, float):
        value = f"{value:g}"
    return f"`{value}`" if value != "" else "empty"


def cell(text: str) -> str:
    """Return a text as the cell of a table."""
    return text.replace("|", "\\|")


def source_comments(schema: type) -> dict[str, str]:
    """Return what stands behind the fields of a schema."""
    body = getsource(schema).partition("\n    def ")[0]
    return {name: comment or "" for name, comment in FIELD.findall(body)}


def yaml_comments() -> dict[str, str]:
    """Return what stands behind the settings in configs/, by their full names; it is written for people who type."""
    found = read_comments(ROOT / "configs/config.yaml", "")
    return found | read_comments(ROOT / "configs/training/default.yaml", "training.")


def read_comments(path: Path, prefix: str) -> dict[str, str]:
    """Return setting -> comment behind it, and in front of it where lines of its own stand there."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    before: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("#"):
            before.append(line.strip("# "))
            continue
        match = SETTING.match(line)
        if match is not None:
            indent, name, comment = len(match[1]), match[2], match[3]
            parents = [(depth, parent) for depth, parent in parents if depth < indent]
            key = prefix + ".".join([*(parent for _, parent in parents), name])
            parents.append((indent, name))
            text = " ".join([*(before if indent else []), *filter(None, [comment])])
            if text:
                found[key] = text
        before = []
    return found


if __name__ == "__main__":
    main()
