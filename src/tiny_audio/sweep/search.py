"""The search: Optuna proposes settings, a separate process trains with them, and its evaluations are the result.

Each trial is a process, so that it starts with all memory free, and a failure of it (a full GPU, a crash in a library)
does not end the search. The search reads its `metrics.jsonl`, so training needs no code for a search.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import UserError
from ..files import locked
from ..training.interrupt import SIGNALS, StopRequest
from .file import Sweep, merge
from .report import Result, print_best, results, write_csv
from .watch import Watch, last_line

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

logger = logging.getLogger(__name__)

TRAIN = (sys.executable, "-m", "tiny_audio.cli", "train")
POLL_SECONDS = 0.5
STOPPED = tuple(status for number in SIGNALS for status in (-number, 128 + number))  # exit statuses
FAILURES_IN_A_ROW = 3  # so many failures are not the fault of the values


@dataclass(frozen=True)
class Search:
    """A sweep and its folder.

    Attributes:
        settings: the settings of every trial.
        options: of `ta train`, such as `--config-dir`.
        folder: of the search; a trial trains in its `trial-N`.
        compose: turns settings into a configuration.
    """

    sweep: Sweep
    settings: tuple[str, ...]
    options: tuple[str, ...]
    folder: Path
    compose: Callable[[list[str]], Config]

    def trial_folder(self, trial: int) -> Path:
        """Return the folder of a trial, counted from 1."""
        return self.folder / f"trial-{trial}"

    def run(self, trials: int) -> list[Result]:
        """Train until `trials` of them are done, those of earlier starts included.

        Raises:
            UserError: the folder holds another search, or several trials in a row have failed.
            KeyboardInterrupt, SystemExit: a signal stopped the search; the same call continues it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"paths.output_dir: {self.folder} cannot be made ({error.strerror}).") from None
        with (
            hold(self.folder) as lock,
            open_study(self.sweep, self.settings, self.folder) as study,
            StopRequest() as stop,
        ):
            failures, before = 0, len(results(study, self.sweep))
            if before:
                logger.info("Done already: %d of %d trials (%s).", before, trials, self.folder)
            while len(done := results(study, self.sweep)) < trials and (trial := self.next_trial(study)):
                self.train(study, trial, trials, stop, lock)
                done = results(study, self.sweep)
                write_csv(self.folder / "results.csv", done, self.sweep)
                if stop():  # the trial reached its end in spite of the signal
                    stop.leave()
                failures = failures + 1 if done[-1].state == "failed" else 0
                if failures == FAILURES_IN_A_ROW:
                    raise UserError(
                        f"{failures} trials in a row failed; the last one: {done[-1].error} "
                        f"(all it printed: {self.trial_folder(done[-1].trial) / 'log.txt'})"
                    )
                if len(done) < trials:
                    print_best(done, self.sweep, 5, sys.stderr)
            return done

    def next_trial(self, study: Study) -> Trial | None:
        """Return the interrupted trial, else a new one; None if the grid is done."""
        from optuna.trial import Trial, TrialState

        done = study.get_trials(deepcopy=False)
        unfinished = [trial for trial in done if trial.state == TrialState.RUNNING]
        number = unfinished[0].number if unfinished else len(done)
        # Seeded by the number of the trial: after a stop, the search proposes the same values, and repeats none.
        study.sampler = build_sampler(self.sweep.method, seed=number)
        if unfinished:
            return Trial(study, unfinished[0]._trial_id)
        if self.sweep.method == "grid" and not any(trial.state == TrialState.WAITING for trial in done):
            grid = self.sweep.grid()
            if number == len(grid):
                return None
            study.enqueue_trial(grid[number])
        return study.ask()

    def train(self, study: Study, trial: Trial, trials: int, stop: StopRequest, lock: int | None) -> None:
        """Run one trial to its end and record it in the study."""
        from optuna.trial import TrialState

        number = trial.number + 1
        chosen = [f"{parameter.name}={parameter.suggest(trial)}" for parameter in self.sweep.parameters]
        folder = self.trial_folder(number)
        settings = [*merge(self.settings, chosen, [f"paths.output_dir={folder}"])]
        title = f"Trial {number}/{trials}"
        logger.info("%s: %s", title, " ".join(chosen))
        logger.info("%s: prints to %s", title, folder / "log.txt")
        watch = Watch(self.sweep, trial, self.compose(settings), title)
        status = self.start(folder, settings, watch, stop, lock)
        if status in STOPPED and not watch.pruned:
            logger.info("%s is not finished; the same command resumes it.", title)
            stop.leave()
        if status == 0 and watch.best:
            trial.set_user_attr("step", watch.best[0])
            logger.info("%s: done, at best %s", title, watch.show(watch.best))
            study.tell(trial, watch.best[1])
        elif watch.pruned and watch.last:
            trial.set_user_attr("step", watch.last[0])
            logger.info("%s: stopped early, since other trials were better at that point.", title)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            reason = last_line(folder / "log.txt") if status else f"it has logged no {self.sweep.metric}"
            trial.set_user_attr("error", reason)
            logger.error("%s failed (exit status %d): %s", title, status, reason)
            study.tell(trial, state=TrialState.FAIL)

    def start(self, folder: Path, settings: list[str], watch: Watch, stop: StopRequest, lock: int | None) -> int:
        """Train in a process and watch it; return its exit status."""
        folder.mkdir(exist_ok=True)
        command = [*TRAIN, *self.options, *settings]
        # In its own group: Ctrl+C in a terminal reaches every process of a group. The signal that is forwarded below
        # would then be the second one, which ends the trial without saving. The trial holds our lock too. So if this
        # search is killed, a new one does not train in the same folder at the same time.
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            kept = () if lock is None else (lock,)
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, pass_fds=kept
            )
        note(lock, process.pid)
        sent = False
        try:
            while process.poll() is None:
                try:
                    process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    watch.read()
                if (stop() or watch.pruned) and not sent:
                    process.send_signal(signal.SIGTERM)
                    sent = True
        finally:
            if process.poll() is None:  # Ctrl+C a second time
                process.send_signal(signal.SIGTERM)
                process.wait()
        watch.read()
        return process.returncode


@contextmanager
def hold(folder: Path) -> Iterator[int | None]:
    """Lock the folder, and wait while another process holds it; its `.lock` names the process that trains there."""
    path = folder / ".lock"
    holder = (path.read_text(encoding="utf-8").strip() if path.is_file() else "") or "unknown"
    busy = f"{folder}: another sweep works here, or a trial of one that was killed (process {holder}); waiting for it."
    with locked(path, busy) as lock:
        yield lock


def note(lock: int | None, process: int) -> None:
    """Write into the lock which process holds it."""
    if lock is not None:
        os.ftruncate(lock, 0)
        os.lseek(lock, 0, os.SEEK_SET)
        os.write(lock, f"{process}\n".encode())


def build_sampler(method: str, seed: int) -> BaseSampler:
    """Return the sampler: TPE (NeurIPS 2011, Bergstra et al.), after ten trials at random."""
    from optuna.samplers import RandomSampler, TPESampler

    return TPESampler(seed=seed) if method == "bayes" else RandomSampler(seed=seed)


def build_pruner(sweep: Sweep) -> BasePruner:
    """Return the pruner: successive halving (arXiv 1810.05934), which W&B calls hyperband."""
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    if sweep.early_stop is None:
        return NopPruner()
    return SuccessiveHalvingPruner(min_resource=sweep.early_stop.first, reduction_factor=sweep.early_stop.eta)


@contextmanager
def open_study(sweep: Sweep, settings: Sequence[str], folder: Path) -> Iterator[Study]:
    """Open the study of a search, in `study.db`; make it if there is none.

    Raises:
        UserError: it belongs to another search, whose trials cannot be compared with new ones.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the search prints its own messages
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder.resolve() / 'study.db'}")
    try:
        study = optuna.create_study(
            storage=storage,
            pruner=build_pruner(sweep),
            study_name=sweep.name,
            direction="minimize" if sweep.minimize else "maximize",
            load_if_exists=True,
        )
        asked = {
            "method": sweep.method,
            "metric": sweep.metric,
            "parameters": [repr(parameter) for parameter in sweep.parameters],
            "settings": list(settings),
        }
        for key, value in asked.items():
            if study.user_attrs.setdefault(key, value) != value:
                raise UserError(
                    f"{folder} holds a sweep with other {key}: give this one another `name` in its file, or "
                    f"move the folder away. It has {study.user_attrs[key]}, this one {value}."
                )
            study.set_user_attr(key, value)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()
