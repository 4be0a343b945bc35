"""`ta train`: compose the settings with Hydra, and train. The training code is imported only when a run starts."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..config import Config, build_config
from ..errors import UserError
from .compose import (
    GROUPS,
    choices,
    compose,
    one_line_errors,
    own_folders,
    register,
    shadowed,
    shipped_folder,
    sweep_jobs,
    sweep_values,
    to_overrides,
)
from .console import configure_logging, debugging
from .jobs import FAILED, TRAINED, UNFINISHED, Job, as_typed, forget_jobs, jobs_name, print_jobs

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger = logging.getLogger(__name__)

HELP = """\
usage: ta train [experiment=NAME] [data=NAME] [training=NAME] [KEY=VALUE ...] [options]

Train a projector between a frozen speech encoder and a frozen language model. A run writes to
outputs/EXPERIMENT/; the same command continues from its newest checkpoint.

examples:
  ta train experiment=quickstart
  ta train experiment=transcription
  ta train experiment=transcription data.max_samples=100 training.max_steps=10 training.eval_steps=5
  ta train experiment=transcription data=common_voice training=high_quality training.batch_size=8
  ta train data=custom data.train_path=my/train.jsonl data.eval_path=my/dev.jsonl
  ta train -m training.learning_rate=1e-4,3e-4,1e-3
{groups}
settings:
  Any setting of the configuration is overridden as KEY=VALUE, and the command line overrides every file;
  `ta train --cfg job` prints them all. Lists are written [a,b]; put quotes around special characters of the shell:
    ta train 'data.datasets=[{{path: a.jsonl, weight: 2}}, {{path: b.jsonl}}]' 'model.prompt="Write it down."'

options:
  --cfg job         print the final configuration, train nothing (-p KEY: a part of it)
  -m, --multirun    run every combination of comma-separated values, each in its own folder; with
                    hydra/launcher=submitit_slurm as Slurm jobs
  --config-dir DIR  use your own YAML, too: DIR/experiments/NAME.yaml, DIR/data/..., DIR/training/...
  --hydra-help      Hydra's own options
  -h, --help        this text

environment:
  HF_HOME           where models and data from the Hugging Face Hub are kept
  TA_DEBUG=1        show tracebacks"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        groups = "|".join(GROUPS)
        if unknown := re.match(rf"unrecognized arguments: --([\w.]+\.\w+|(?:{groups})$)", message):
            message = f"settings are written KEY=VALUE: {unknown[1]}=..."
        raise UserError(f"{message}; `ta train --help` says more.")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Separate options from settings, in any order; `--a.b=c`, as W&B's agents write it, is `a.b=c`."""
    parser = _Parser(prog="ta train", add_help=False, allow_abbrev=False)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--package", "-p")
    parser.add_argument("--config-dir", "-cd", action="append", default=[], type=Path)
    parser.add_argument("--config-name", "-cn", default="config")
    parser.add_argument("--multirun", "-m", action="store_true")
    for flag in ("--resolve", "--run", "-r", "--hydra-help", "--shell-completion", "-sc"):
        parser.add_argument(flag, action="store_true")
    info = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    parser.add_argument("--info", "-i", choices=info, nargs="?", const="all")
    setting = re.compile(rf"--(?=[+~]*([\w-]+[./][\w./@-]+|{'|'.join(['experiments', *GROUPS])})=)")
    return parser.parse_intermixed_args([setting.sub("", token) for token in argv])


def run(argv: list[str]) -> int:
    """Run `ta train` with these arguments and return the exit status.

    Raises:
        UserError: one line for the person who typed them.
    """
    args = parse(argv)
    own = own_folders(args.config_dir)
    if args.help:
        print(help_text(own))
        return 0
    for file in shadowed(own):
        logger.warning("%s is not read: Tiny Audio has a file of that name; rename yours.", file)
    register(own)
    overrides = to_overrides(args.settings, own)
    if args.multirun and args.cfg in (None, "job"):
        return run_jobs(args, overrides)
    if flags := hydra_flags(args):
        return hand_to_hydra([*flags, "--config-name", args.config_name, *overrides])
    config, hydra = compose(overrides, args.config_name)
    check(config)
    if args.cfg:
        print(to_yaml(config, args.package), end="")
        return 0
    launcher = hydra.runtime.choices["hydra/launcher"]
    if launcher != "basic":
        logger.warning("hydra/launcher=%s takes effect only with -m; this run starts on this machine.", launcher)
    start(config)
    return 0


def help_text(own: Sequence[Path] = ()) -> str:
    """Return what `ta train --help` prints, with the choices of every group."""
    lines = []
    for typed, group in GROUPS.items():
        lines.append(f"\n{typed}=")
        for name, summary in choices(group, [shipped_folder(), *own]).items():
            lines.append(f"  {name:<18}{summary}".rstrip())
    return HELP.format(groups="\n".join(lines) + "\n")


def check(config: Config) -> None:
    """Refuse settings that no run can start with.

    Raises:
        UserError: there is no training data, an entry names an unknown corpus, or a tracker is missing.
    """
    from ..data.corpora import known_corpus
    from ..training.tracking import check_installed

    check_installed(config.logging.trackers)
    if not config.data.datasets:
        raise UserError("data.datasets is empty; name a corpus, such as data=librispeech.")
    for entry in config.data.datasets + config.data.eval_datasets:
        if entry.name != "pocket":
            known_corpus(entry)


def run_jobs(args: argparse.Namespace, overrides: list[str]) -> int:
    """Run a job for each combination of the values and print the results, or print the configurations."""
    if args.cfg:
        for number, job in enumerate(sweep_jobs(overrides)):
            config = compose(job, args.config_name)[0]
            check(config)
            text = to_yaml(config, args.package)
            print(f"{'---' + chr(10) if number else ''}# job {number}: {' '.join(as_typed(job))}\n{text}", end="")
        return 0
    chosen = any(token.startswith("hydra.sweep.dir=") for token in overrides)
    folder = check_sweep(overrides, args.config_name) / ("" if chosen else jobs_name(args.settings))
    forget_jobs(folder)
    where = str(folder).replace("'", "\\'")
    try:
        return hand_to_hydra(
            ["--multirun", "--config-name", args.config_name, *overrides, f"hydra.sweep.dir='{where}'"]
        )
    finally:
        print_jobs(folder, len(sweep_jobs(overrides)), sys.stdout)


def check_sweep(overrides: Sequence[str], config_name: str) -> Path:
    """Refuse a sweep in which any value is wrong, before its first job starts.

    Returns:
        `hydra.sweep.dir`.

    Raises:
        UserError: a value is wrong; names it.
    """
    for values in sweep_values(overrides):
        config, hydra = compose(values, config_name)
        check(config)
    launcher = hydra.runtime.choices["hydra/launcher"]
    if launcher == "submitit_slurm" and not shutil.which("srun"):
        raise UserError("hydra/launcher=submitit_slurm: there is no Slurm here, no srun on the PATH.")
    if launcher.startswith("submitit"):
        logger.info("The jobs were submitted; their output is in .submitit/, beside their folders.")
    return Path(hydra.sweep.dir)


def to_yaml(config: Config, key: str | None = None) -> str:
    """Return the settings, or those below `key`, as YAML."""
    import yaml

    part: Any = config.to_dict()
    for entries in ("datasets", "eval_datasets"):  # mostly unset
        rows = part["data"][entries]
        part["data"][entries] = [{k: v for k, v in row.items() if v is not None} for row in rows]
    for name in key.split(".") if key else ():
        if not isinstance(part, dict) or name not in part:
            raise UserError(f"--package: there is no {key} in the configuration.")
        part = part[name]
    text = yaml.safe_dump(part, sort_keys=False, allow_unicode=True)
    return text if isinstance(part, dict | list) else text.removesuffix("...\n")


def start(config: Config) -> float | None:
    """Train, and return the best metric.

    A run of a W&B sweep gets its own folder; otherwise it would resume from the checkpoint of the run before it.
    """
    if sweep := os.environ.get("WANDB_SWEEP_ID"):
        run_id = os.environ.get("WANDB_RUN_ID", str(os.getpid()))
        config.paths.output_dir = str(Path(config.paths.output_dir, "sweeps", sweep, run_id))
    from ..training.run import train

    return train(config)


def hydra_flags(args: argparse.Namespace) -> list[str]:
    """Return the options that Hydra itself answers, about itself."""
    flags = ["--hydra-help"] * args.hydra_help + ["--shell-completion"] * (args.shell_completion or args.sc)
    flags += ["--info", args.info] if args.info else []
    if args.cfg in ("hydra", "all"):
        flags += ["--cfg", args.cfg] + (["--package", args.package] if args.package else [])
    return flags


def hand_to_hydra(argv: list[str]) -> int:
    """Run Hydra itself, for sweeps and for its own options."""
    import hydra

    with one_line_errors(), _hydra_environment(argv):
        try:
            hydra.main(config_path=str(shipped_folder()), config_name="config", version_base="1.3")(job)()
        except RuntimeError as error:
            if type(error).__module__ != "submitit.core.utils":
                raise
            raise UserError(
                f"submitit: {str(error).partition(' with path')[0]} gave no result; its log says why."
            ) from error
    return 0


@contextmanager
def _hydra_environment(argv: list[str]) -> Iterator[None]:
    # Hydra reads sys.argv, and passes exceptions on only with HYDRA_FULL_ERROR; TA_DEBUG keeps the user's choice.
    before, environment = sys.argv, dict(os.environ)
    os.environ.update(TA_DEBUG=str(int(debugging())), HYDRA_FULL_ERROR="1")
    sys.argv = ["ta train", *argv]
    try:
        yield
    finally:
        sys.argv = before
        for name in ("TA_DEBUG", "HYDRA_FULL_ERROR"):
            os.environ.pop(name)
            if name in environment:
                os.environ[name] = environment[name]


def job(settings: DictConfig) -> float | None:
    """Run one job of a sweep, in its own folder; on a Slurm node only this function runs.

    Returns:
        The best metric, for sweepers that optimize.
    """
    from hydra.core.hydra_config import HydraConfig

    configure_logging()
    config, hydra = build_config(settings), HydraConfig.get()
    config.paths.output_dir = str(Path(hydra.sweep.dir, str(hydra.sweep.subdir)))
    folder, typed, training = Path(config.paths.output_dir), as_typed(hydra.overrides.task), config.training
    logger.info("Job %s: %s, in %s", hydra.job.num, " ".join(typed), folder)
    note = Job(int(hydra.job.num), typed, training.metric_for_best, training.greater_is_better)
    note.write(folder, UNFINISHED)
    try:
        best = start(config)
    except Exception as error:  # the other jobs still run; Hydra raises the first of these at the end
        logger.error("Job %s: %s", hydra.job.num, error, exc_info=not isinstance(error, UserError))
        note.write(folder, FAILED, error=str(error))
        raise
    note.write(folder, TRAINED, best)
    return best
