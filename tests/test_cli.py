"""`ta` and `ta train` as they are typed: what is printed, what is started, and the exit status."""

import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tiny_audio import __version__
from tiny_audio.cli import COMMANDS, main
from tiny_audio.cli.jobs import jobs_name
from tiny_audio.config import Config
from tiny_audio.config_errors import setting_keys
from tiny_audio.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("TA_DEBUG", "HYDRA_FULL_ERROR", "WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch):
    """The configurations that training was started with; `started.fail` is raised by it."""

    class Started(list):
        fail: BaseException | None = None
        values: Sequence[float | None] = ()  # what they come to

    runs = Started()

    def train(config: Config) -> float | None:
        runs.append(config)
        if runs.fail is not None:
            raise runs.fail
        return runs.values[len(runs) - 1] if runs.values else None

    module = types.ModuleType("tiny_audio.training.run")
    module.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiny_audio.training.run", module)
    return runs


def printed(capsys, command: str) -> dict:
    """What `ta COMMAND --cfg job` prints, read as YAML."""
    assert main([*command.split(), "--cfg", "job"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


# ta


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert main([]) == 2


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ta {__version__}\n"


def test_a_misspelled_command(capsys):
    assert main(["trian"]) == 2
    message = "ta: error: there is no command trian. Did you mean train? `ta --help` lists them.\n"
    assert capsys.readouterr().err == message


def test_nothing_heavy_is_imported_for_help_and_cfg():
    program = """
import sys
from tiny_audio.cli import main
heavy = {"torch", "transformers", "wandb", "datasets", "numpy"}
main(["--help"])
main(["train", "--help"])
main(["data", "--help"])
assert not {*heavy, "hydra", "omegaconf", "yaml"} & {*sys.modules}, sys.modules.keys()
main(["train", "--cfg", "job"])
assert main(["infer", "checkpoint=x"]) == 2
assert not heavy & {*sys.modules}, sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ta train: what is typed


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "train experiment=transcription data.max_samples=100 training.max_steps=10 training.eval_steps=5",
            {"data.max_samples": 100, "training.max_steps": 10, "training.eval_steps": 5},
        ),
        (
            "train experiment=transcription data.max_samples=10 data.num_workers=0",
            {"data.max_samples": 10, "data.num_workers": 0, "training.batch_size": 16},
        ),
        (
            "train training.batch_size=32 training.learning_rate=1e-3 training.max_steps=100000",
            {"training.batch_size": 32, "training.learning_rate": 1e-3, "training.max_steps": 100_000},
        ),
        (
            "train experiment=mosa data=common_voice training=high_quality training.batch_size=8",
            {
                "experiment": "mosa",
                "model.projector_type": "mosa",
                "data.name": "common_voice",
                "training.max_steps": 100_000,
                "training.batch_size": 8,
            },
        ),
        (
            "train --training.learning_rate=0.001 --experiment=mosa --hardware.compile=True",
            {"experiment": "mosa", "training.learning_rate": 0.001, "hardware.compile": True},
        ),
        ("train experiments=moe", {"experiment": "moe", "model.projector_config.num_experts": 8}),
    ],
)
def test_forms_of_the_command(command, expected, capsys):
    values = printed(capsys, command)
    for key, value in expected.items():
        found = values
        for name in key.split("."):
            found = found[name]
        assert found == value, key


def test_options_may_stand_anywhere_and_print_a_part(capsys):
    assert main(["train", "training=fast", "--cfg", "job", "paths.output_dir=x", "-p", "paths"]) == 0
    assert capsys.readouterr().out == "output_dir: x\ncache_dir: ./cache\ndata_dir: ./data\n"


def test_cfg_job_starts_nothing(capsys, started):
    assert main(["train", "--cfg", "job"]) == 0
    assert set(yaml.safe_load(capsys.readouterr().out)) == {key.split(".")[0] for key in setting_keys(Config)}
    assert not started
    assert not list(Path().iterdir())


def test_help_of_train_lists_the_choices(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "ta train experiment=quickstart" in text
    for name in ("mlp_fine_tune", "common_voice", "high_quality"):
        assert f"\n  {name} " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=mosaa"], "experiment=mosaa does not exist. Did you mean mosa? There are laptop, "
         "laptop_lora, laptop_text, mlp_fine_tune, mlp_lora, moe, mosa, qformer, quickstart, transcription."),
        (["--cfg", "job", "training.batch_size=0"], "training.batch_size must be at least 1, got 0."),
        (["data=custom"],
         "data=custom needs your recordings for training and for evaluation, each a manifest (.jsonl, .csv), "
         "a folder or a Hub id: data.train_path=my/train.jsonl data.eval_path=my/dev.jsonl"),
        (["data.datasets=[{name:librispeach}]"],
         "data.datasets: there is no corpus librispeach among librispeech, common_voice, gigaspeech, "
         "tedlium, voxpopuli, loquacious, pocket; did you mean librispeech?"),
        (["data.datasets=[]"], "data.datasets is empty; name a corpus, such as data=librispeech."),
        (["-m", "training.batch_size=8,0"], "training.batch_size must be at least 1, got 0."),
        (["-m", "training=fast,fst"],
         "training=fst does not exist. Did you mean fast? There are default, fast, high_quality."),
        (["--training.batch_size", "8"],
         "settings are written KEY=VALUE: training.batch_size=...; `ta train --help` says more."),
        (["--experiment", "mosa"],
         "settings are written KEY=VALUE: experiment=...; `ta train --help` says more."),
        (["quickstart"], "quickstart is not a setting. Did you mean experiment=quickstart?"),
        (["librispeech"], "librispeech is not a setting. Did you mean data=librispeech?"),
        (["--foo"], "unrecognized arguments: --foo; `ta train --help` says more."),
        (["--config-dir", "/nope"], "--config-dir: there is no folder /nope."),
        (["--config-name", "nope"], "there is no configuration file nope.yaml."),
        (["--cfg", "job", "-p", "nope"], "--package: there is no nope in the configuration."),
    ],
    ids=" ".join,
)  # fmt: skip
def test_mistakes_are_one_line_and_status_2(arguments, message, capsys, started):
    assert main(["train", *arguments]) == 2
    assert capsys.readouterr() == ("", f"ta train: error: {message}\n")
    assert not started
    assert not list(Path().iterdir())


# ta train: what is started


def test_a_run_gets_the_validated_configuration(started, capsys):
    assert main(["train", "experiment=mosa"]) == 0
    (config,) = started
    assert type(config) is Config
    assert (config.experiment, config.paths.output_dir) == ("mosa", "./outputs")
    assert not list(Path().iterdir())  # nothing of Hydra's


def test_the_users_mistake_within_a_run(started, capsys):
    started.fail = UserError("there is no checkpoint x.pt.")
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "ta train: error: there is no checkpoint x.pt.\n"


def test_an_interrupted_run(started, capsys):
    started.fail = KeyboardInterrupt()
    assert main(["train"]) == 130


def test_a_bug_of_ours_keeps_its_traceback(started):
    started.fail = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        main(["train"])


def test_debugging_shows_the_traceback_of_mistakes(monkeypatch):
    monkeypatch.setenv("TA_DEBUG", "1")
    with pytest.raises(UserError):
        main(["train", "training.batch_size=0"])


def test_a_sweep_runs_every_combination_in_a_folder_of_its_own(started, capsys):
    assert main(["train", "-m", "experiment=mosa", "training=fast,high_quality", "hydra.sweep.dir=s"]) == 0
    assert [c.training.max_steps for c in started] == [5000, 100_000]  # typed presets win in every job
    assert [c.paths.output_dir for c in started] == ["s/0", "s/1"]
    assert "[INFO] Job 1: experiment=mosa training=high_quality, in s/1\n" in capsys.readouterr().err


def test_a_failed_job_of_a_sweep_does_not_stop_the_others(started, capsys):
    started.fail = UserError("no.")
    assert main(["train", "-m", "training.seed=1,2"]) == 2
    assert len(started) == 2
    shown = capsys.readouterr()
    assert shown.err.endswith("ta train: error: no.\n")
    table = [line.split() for line in shown.out.splitlines()]
    assert table[1:3] == [["0", "failed", "training.seed=1", "(no.)"], ["1", "failed", "training.seed=2", "(no.)"]]
    assert shown.out.splitlines()[3].startswith("2 failed; in outputs/multirun/seed-")


def test_a_sweep_ends_with_a_table_of_its_jobs_best_first(started, capsys):
    started.values = [0.5, 0.25]
    assert main(["train", "-m", "experiment=mosa", "training.learning_rate=1e-4,3e-4"]) == 0
    heading, *rows, counts = capsys.readouterr().out.splitlines()
    assert heading.split() == ["job", "wer", "settings"]
    assert [row.split() for row in rows] == [
        ["1", "25.0%", "trained", "training.learning_rate=0.0003"],
        ["0", "50.0%", "trained", "training.learning_rate=0.0001"],
    ]
    assert counts.startswith("2 trained; in outputs/multirun/learning_rate-")


def test_after_ctrl_c_the_same_sweep_goes_on_in_the_same_folders(started, capsys):
    """It used to begin anew in a folder with another date, having said that it would go on."""
    typed = ["train", "-m", "training.seed=1,2"]
    started.fail = KeyboardInterrupt()
    assert main(typed) == 130
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["0", "not", "finished", "training.seed=1"]
    assert lines[2].startswith("1 not finished, 1 not begun; in outputs/multirun/seed-")
    assert lines[3] == "The same command continues those that were not trained to the end."
    started.fail = None
    assert main(typed) == 0
    assert started[1].paths.output_dir == started[0].paths.output_dir
    assert started[2].paths.output_dir != started[1].paths.output_dir
    assert jobs_name(["training.seed=2,1"]) != jobs_name(["training.seed=1,2"]), "job 0 is another one"


def test_the_configurations_of_a_sweep_are_printed_and_nothing_is_trained(started, capsys):
    assert main(["train", "-m", "--cfg", "job", "training.seed=1,2", "experiment=glob(mos*)"]) == 0
    assert not started
    printed = capsys.readouterr().out
    found = [(page["training"]["seed"], page["experiment"]) for page in yaml.safe_load_all(printed)]
    assert found == [(1, "mosa"), (2, "mosa")]
    assert "# job 1: training.seed=2 experiment=mosa\n" in printed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_under_what_is_printed_is_one_line():
    command = [sys.executable, "-m", "tiny_audio.cli", "train", "--cfg", "job"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    message = "ta train: error: the disk is full; make room, and type the command again.\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_runs_of_a_wandb_sweep_do_not_share_a_folder(started, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "run")
    assert main(["train", "--training.batch_size=8"]) == 0
    assert started[0].paths.output_dir == "outputs/sweeps/sweep/run"


def test_the_wandb_sweep_file():
    sweep = yaml.safe_load((REPOSITORY / "sweep.yaml").read_text())
    assert (sweep["program"], sweep["method"]) == ("train.py", "bayes")
    assert sweep["metric"] == {"name": "eval/wer", "goal": "minimize"}
    assert set(sweep["parameters"]) <= set(setting_keys(Config))
    assert all(isinstance(p["min"], float) for p in sweep["parameters"].values() if "min" in p)
    assert "${args}" in sweep["command"]


def test_the_sweep_program_is_ta_train():
    command = [sys.executable, REPOSITORY / "train.py", "--training.batch_size=0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ta train: error: training.batch_size must be at least 1, got 0.\n"


# ta train --config-dir


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def test_files_of_ones_own(started, capsys):
    write("own dir/experiments/mine.yaml", "# @package _global_\nmodel: {projector_type: moe}\n")
    write("own dir/training/slow.yaml", "defaults: [default, _self_]\nmax_steps: 7\n")
    assert main(["train", "experiment=mine", "training=slow", "--config-dir", "own dir"]) == 0
    (config,) = started
    assert (config.experiment, config.model.projector_type, config.training.max_steps) == ("mine", "moe", 7)
    assert capsys.readouterr().err == ""


def test_a_file_that_a_shipped_one_hides_is_named(started, capsys):
    write("own/training/fast.yaml", "max_steps: 7\n")
    assert main(["train", "training=fast", "--config-dir=own"]) == 0
    assert started[0].training.max_steps == 5000
    path = Path("own/training/fast.yaml").resolve()
    message = f"[WARN] {path} is not read: Tiny Audio has a file of that name; rename yours.\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model: {}\n",
            "experiments/mine.yaml: the first line of an experiment must be `# @package _global_`.",
        ),
        (
            "# @package _global_\nmodel: {projectr_type: moe}\n",
            "experiments/mine.yaml: there is no setting model.projectr_type. Did you mean model.projector_type?",
        ),
        (
            "# @package _global_\nmodel: {use_lora: 7x}\n",
            "experiments/mine.yaml: model.use_lora must be true or false, got 7x.",
        ),
        ("model: [\n", "cannot read a configuration file: "),
    ],
)
def test_mistakes_in_files_of_ones_own(text, message, capsys):
    write("own/experiments/mine.yaml", text)
    assert main(["train", "experiment=mine", "--config-dir", "own"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ta train: error: {message}")
    assert error.count("\n") == 1
