"""Turn typed settings into a validated `Config`: Hydra composes them, and its errors become one line."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config, build_config
from ..config_errors import did_you_mean, explain, unknown_setting
from ..errors import ConfigError, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

# Group as it is typed -> the folder of configs/ with its choices.
GROUPS = {"experiment": "experiments", "data": "data", "training": "training"}
PRESETS = ("data", "training")  # experiments choose presets too; typed presets override them


def shipped_folder() -> Path:
    """Return `configs/`: inside the installed package, or at the root of the repository."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError("the configuration files of Tiny Audio are missing; install it again.")


def own_folders(typed: Sequence[Path]) -> list[Path]:
    """Return the absolute paths of the folders in `--config-dir`.

    Raises:
        UserError: one of them does not exist.
    """
    own = [folder.resolve() for folder in typed]
    for folder in own:
        if not folder.is_dir():
            raise UserError(f"--config-dir: there is no folder {folder}.")
    return own


def choices(group: str, folders: Sequence[Path]) -> dict[str, str]:
    """Return the choices of a group in these folders: name -> the first sentence of the file."""
    found: dict[str, str] = {}
    for path in sorted(file for folder in folders for file in (folder / group).glob("*.yaml")):
        comments = re.findall(r"^# (?!@package)(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        found.setdefault(path.stem, comments[0] if comments else "")
    return found


def shadowed(own: Sequence[Path]) -> list[Path]:
    """Return the files of the user's folders that are not read, since a shipped file has the same name."""
    shipped = shipped_folder()
    names = [file.relative_to(shipped) for file in sorted(shipped.rglob("*.yaml"))]
    return [folder / name for folder in own for name in names if (folder / name).is_file()]


def to_overrides(typed: Sequence[str], own: Sequence[Path] = ()) -> list[str]:
    """Turn typed settings into Hydra overrides.

    `experiment=X` chooses from the folder `experiments/`. A typed preset is applied again after the experiment, whose
    own values would otherwise override it. An interpolation makes this work in every job of a sweep over presets.
    """
    overrides = [re.sub(r"^(\+{0,2}|~)experiment(?=[=@]|$)", r"\1experiments", token) for token in typed]
    for group in PRESETS:
        if any(re.match(rf"{group}=[^{{]", token) for token in overrides):
            overrides.append(f"+typed_{group}=${{{group}}}")
    if own:
        folders = ",".join(f'"file://{folder.resolve().as_posix()}"' for folder in own)
        overrides.append(f"hydra.searchpath=[{folders}]")
    return overrides


def register(own: Sequence[Path] = ()) -> None:
    """Register the schema with Hydra, and a second name for every preset, for `to_overrides`."""
    _store("schema", Config)
    for group in PRESETS:
        for name in choices(group, [shipped_folder(), *own]):
            _store(name, f"/{group}/{name}@{group}", group=f"typed_{group}", package="_global_")


@functools.cache  # Hydra keeps it as long as the process lives
def _store(name: str, node: type[Config] | str, **where: str) -> None:
    """Put the schema, or another name for a preset, where Hydra finds it."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name=name, node={"defaults": [node]} if isinstance(node, str) else node, **where)


def compose(overrides: Sequence[str], config_name: str = "config") -> tuple[Config, DictConfig]:
    """Compose and validate.

    Returns:
        The settings, and Hydra's own (`cfg.hydra`).

    Raises:
        ConfigError: a typed setting, or a file that it names, is wrong.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    with one_line_errors(), hydra.initialize_config_dir(str(shipped_folder()), version_base="1.3"):
        composed = hydra.compose(config_name, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(composed)  # the composed `experiment` reads it
    if composed.hydra.runtime.choices.get("experiments") is None:
        raise ConfigError("experiment must be the name of one experiment; `ta train --help` lists them.")
    settings = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    return build_config(settings), composed.hydra


def sweep_values(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Yield overrides that together contain every value of a sweep, to check the sweep before it starts."""
    fixed, sweeps = _split_sweeps(overrides)
    first = [sweep[0] for sweep in sweeps]
    yield fixed + first
    for i, sweep in enumerate(sweeps):
        yield from (fixed + first[:i] + [value] + first[i + 1 :] for value in sweep[1:])


def sweep_jobs(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job of a sweep, in Hydra's order."""
    fixed, sweeps = _split_sweeps(overrides)
    return [fixed + list(job) for job in itertools.product(*sweeps)]


def _split_sweeps(overrides: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Split overrides into those of all jobs, and those with several values, as `KEY=VALUE` for each value."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    fixed, sweeps = [], []
    with one_line_errors(), hydra.initialize_config_dir(str(shipped_folder()), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # it can expand `glob(*)`
        for override in parser.parse_overrides(list(overrides)):
            if not override.is_sweep_override():
                fixed.append(str(override.input_line))
            elif override.is_discrete_sweep():
                key = override.get_key_element()
                sweeps.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    return fixed, sweeps


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error of Hydra or OmegaConf into a `ConfigError` of one line; other exceptions pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if message := translate(error):
            raise ConfigError(message) from error
        raise


def translate(error: Exception) -> str | None:
    """Return in one line what Hydra or OmegaConf refused; None for any other exception."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    text = str(error)
    file = re.match(r"In '([\w./-]+)': ", text)
    where = f"{file[1]}.yaml: " if file and file[1] not in ("config", "hydra/config") else ""
    if isinstance(error, MissingConfigException):
        return where + _missing(error.missing_cfg_file or "", list(error.options or []))
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if cause := _omegaconf_error(error):
        if str(cause.full_key).split(".")[0] == "experiments":
            return f"{where}the first line of an experiment must be `# @package _global_`."
        return where + explain(cause, Config)
    if several := re.match(r"Ambiguous value for argument '(.*)'|Sweep parameters '(.*)' requires", text):
        return _several(several[1] or several[2])
    if again := re.match(r"Could not append to config. An item is already at '(.+)'", text):
        return f"{again[1]} exists already: leave out the + before it."
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return unknown_setting(unknown[1], Config)
    if isinstance(error, YAMLError):
        return "cannot read a configuration file: " + " ".join(text.split())
    if "Config group override must be" in text:
        return "experiment, data and training take a name, as in training=fast; `ta train --help` lists them."
    if isinstance(error, HydraException | OmegaConfBaseException):
        return " ".join(text.split())
    return None


def _omegaconf_error(error: BaseException | None) -> OmegaConfBaseException | None:
    from omegaconf.errors import OmegaConfBaseException

    while error is not None:
        if isinstance(error, OmegaConfBaseException) and error.full_key is not None:
            return error
        error = error.__cause__ or error.__context__
    return None


def _missing(path: str, known: list[str]) -> str:
    group, _, name = path.rpartition("/")
    if path.startswith("hydra/launcher/submitit"):
        return f"hydra/launcher={name} needs a plugin: pip install 'tiny-audio[slurm]'"
    if not known:
        return f"there is no configuration file {path}.yaml."
    typed = {folder: key for key, folder in GROUPS.items()}.get(group, group)
    return f"{typed}={name} does not exist.{did_you_mean(name, known)} There are {', '.join(known)}."


def _quoted(key: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f'{key}="{escaped}"')


def _unreadable(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        for group, folder in GROUPS.items():
            if override in choices(folder, [shipped_folder()]):
                return f"{override} is not a setting. Did you mean {group}={override}?"
        return f"{override} is not a setting; settings are written key=value."
    if value.lstrip()[:1] in ("[", "{"):
        return f"{override} cannot be read; a list is written [a,b], with quotes around it for the shell."
    return f"{override} cannot be read; quote the value: {_quoted(key, value)}"


def _several(override: str) -> str:
    key, _, value = override.partition("=")
    return (
        f"{override} is several values: add -m to run them one after the other, "
        f"write {key}=[{value}] for a list, or {_quoted(key, value)} for one text."
    )
