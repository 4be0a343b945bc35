"""Errors about settings in one line: the name as it is typed, the value, the nearest valid one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, get_type_hints

if TYPE_CHECKING:
    from omegaconf.errors import OmegaConfBaseException

# Part of a type annotation -> the values that it allows; the first match counts.
EXPECTED = {
    "list": "a list such as [a,b]",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean X?` for the nearest of the known words, or an empty text if none is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f" Did you mean {near[0]}?" if near else ""


def setting_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Yield every setting of a schema as it is typed: `model.encoder`, `model.lora_config.r`, ..."""
    for name, kind in get_type_hints(schema).items():
        if is_dataclass(kind):
            assert isinstance(kind, type)
            yield from setting_keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def unknown_setting(key: str, schema: type) -> str:
    """Return the message that the schema has no such setting, with the nearest one, or else all in its group."""
    keys = list(setting_keys(schema))
    section, _, name = key.rpartition(".")
    beside = {k.removeprefix(f"{section}."): k for k in keys if section and k.startswith(f"{section}.")}
    near = (
        [beside[match] for match in difflib.get_close_matches(name, beside, 1)]
        or ([] if section else difflib.get_close_matches(key, get_type_hints(schema), 1))
        or [k for k in keys if k.rpartition(".")[2] == name]
        or ([] if beside else difflib.get_close_matches(key, keys, 1))
    )
    if near:
        return f"there is no setting {key}. Did you mean {near[0]}?"
    if beside:
        return f"there is no setting {key}; {section} has {', '.join(beside)}."
    return f"there is no setting {key}; `ta train --cfg job` prints them all."


def explain(error: OmegaConfBaseException, schema: type) -> str:
    """Return one line on the value for a schema that OmegaConf refused."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

    key, name, owner = error.full_key or "", str(error.key), error.object_type
    known = get_type_hints(owner) if isinstance(owner, type) and is_dataclass(owner) else {}
    # OmegaConf's key for an entry of a list lacks the path to the list.
    in_entry = bool(known) and key == name and owner is not schema
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        if in_entry:
            keys = f"The keys are {', '.join(known)}."
            return f"an entry of data.datasets has no key {name}.{did_you_mean(name, known)} {keys}"
        return unknown_setting(key, schema)
    where = f"{key} of an entry of data.datasets" if in_entry else key
    if isinstance(error, ValidationError) and name in known:
        kind = str(known[name])
        expected = next((text for part, text in EXPECTED.items() if part in kind), "a group of settings")
        return f"{where} must be {expected}, got {'null' if error.value is None else error.value}."
    if number := re.search("could not be converted to (Integer|Float)", str(error)):  # in a list of numbers
        return f"{where} must be {'a whole number' if number[1] == 'Integer' else 'a number'}, got {error.value}."
    if isinstance(error, ValidationError) and key.endswith("]"):  # [{a: 1, b: 2}] that the shell took apart
        return f"{key} must be a group such as {{path: a.jsonl}}, in quotes for the shell, got {error.value}."
    reason = str(error.msg or error).splitlines()[0]
    if group := re.search(r"is not a subclass of (\w+)\. value: (.*)", reason):
        return f"a group of settings ({group[1]}) is expected, got {group[2]}."
    return f"{where}: {reason}." if where else f"{reason}."
