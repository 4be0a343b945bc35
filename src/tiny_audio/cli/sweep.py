"""`ta sweep`: search for good settings on this machine, with the same file as `wandb sweep`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import ConfigError, UserError
from .compose import compose, own_folders, register, to_overrides
from .options import Parser
from .train import check

if TYPE_CHECKING:
    from ..sweep.file import Sweep

logger = logging.getLogger(__name__)

TRIALS = 20
EPILOG = """\
examples:
  ta sweep sweep.yaml
  ta sweep sweep.yaml trials=50 training=fast training.seed=1
  ta sweep sweep.yaml experiment=quickstart training.max_steps=200

FILE is also a file for `wandb sweep`. Settings apply to every trial; a setting that you type is not searched.
Each trial trains in OUTPUT_DIR/sweeps/NAME/trial-N, where NAME is the file's `name`, else that of the file;
results.csv beside them has all values. Ctrl+C saves and stops, and the same command continues. `method: grid` runs
every combination, unless trials is given. Options may be written with dashes too: --trials 50."""


def run(argv: list[str]) -> int:
    """Run `ta sweep` with these arguments and return the exit status: 1 if no trial finished its training.

    Raises:
        UserError: one line for the person who typed them.
    """
    parser = Parser(
        "ta sweep",
        "ta sweep FILE [trials=N] [KEY=VALUE ...]",
        "Search for good settings on this machine, without an account: W&B's sweep.yaml, followed by Optuna.",
        EPILOG,
    )
    parser.add_argument("settings", nargs="*", metavar="FILE, KEY=VALUE", help="the sweep, and settings of `ta train`")
    parser.add_argument("--trials", type=int, metavar="N", help=f"default: run_cap of the file, else {TRIALS}")
    parser.add_argument(
        "--config-dir", action="append", default=[], type=Path, metavar="DIR", help="your own YAML, as in `ta train`"
    )
    args = parser.read(argv)
    files = [token for token in args.settings if "=" not in token]
    if len(files) != 1:
        raise UserError(f"name one sweep file: ta sweep sweep.yaml{' (got ' * bool(files)}{', '.join(files)}")
    if args.trials is not None and args.trials < 1:
        raise UserError(f"trials must be at least 1, got {args.trials}.")
    own = own_folders(args.config_dir)
    return search(Path(files[0]), [token for token in args.settings if "=" in token], args.trials, own)


def search(file: Path, given: list[str], trials: int | None, own: list[Path]) -> int:
    """Check the whole sweep, run it, and print the results."""
    from ..sweep.file import merge, read_sweep
    from ..sweep.report import command_of, print_best, ranked
    from ..sweep.search import Search

    sweep = read_sweep(file)
    keys = {token.partition("=")[0] for token in given}
    for parameter in sweep.parameters:
        if parameter.name in keys:
            logger.info("%s is not searched, since a value was typed.", parameter.name)
    sweep = replace(sweep, parameters=tuple(p for p in sweep.parameters if p.name not in keys))
    if not sweep.parameters:
        raise UserError(f"{file}: nothing is left to search.")
    settings = merge(sweep.settings, given)
    register(own)

    def compose_trial(typed: list[str]) -> Config:
        config, _ = compose(to_overrides(typed, own))
        check(config)
        return config

    config = check_values(sweep, settings, compose_trial, file)
    if trials is None:
        trials = sweep.run_cap or (len(sweep.grid()) if sweep.method == "grid" else TRIALS)
    folder = Path(config.paths.output_dir, "sweeps", sweep.name)
    options = [f"--config-dir={path}" for path in own]
    done = Search(sweep, settings, tuple(options), folder, compose_trial).run(trials)
    print_best(done, sweep, 10, sys.stdout)
    best = ranked(done, sweep)[:1]
    for result in best:
        print(f"\nThe best run is in {folder / f'trial-{result.trial}'}. To train it again:")
        print(command_of(result, settings, options, folder))
    return 0 if best else 1


def check_values(
    sweep: Sweep, settings: Sequence[str], compose_trial: Callable[[list[str]], Config], file: Path
) -> Config:
    """Compose trials with every choice and both ends of every range, before the first trial starts.

    Returns:
        One of the configurations.

    Raises:
        ConfigError: a value that no trial can be started with.
    """
    first = [f"{parameter.name}={parameter.edges()[0]}" for parameter in sweep.parameters]
    for i, parameter in enumerate(sweep.parameters):
        for edge in parameter.edges():
            try:
                config = compose_trial([*settings, *first[:i], f"{parameter.name}={edge}", *first[i + 1 :]])
            except ConfigError as error:
                raise ConfigError(f"{file}: {error}") from error
    return config
