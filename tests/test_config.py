"""The shipped YAML, the schema behind it, and what is said about a setting that is wrong."""

import copy
import functools
from dataclasses import asdict, replace

import pytest
import torch
from omegaconf import OmegaConf

from tiny_audio.cli.compose import choices, compose, register, shipped_folder, to_overrides
from tiny_audio.config import Config, DatasetConfig, build_config
from tiny_audio.config_errors import setting_keys
from tiny_audio.errors import ConfigError, UserError
from tiny_audio.model.projectors import build_projector

SHIPPED = {
    "experiments": [
        "laptop",
        "laptop_lora",
        "laptop_text",
        "mlp_fine_tune",
        "mlp_lora",
        "moe",
        "mosa",
        "qformer",
        "quickstart",
        "transcription",
    ],
    "data": [
        *("common_voice", "custom", "leaderboard", "librispeech", "librispeech_small", "loquacious", "multi_asr"),
        "pocket",
    ],
    "training": ["default", "fast", "high_quality"],
}
OWN_DATA = ["data.train_path=a.jsonl", "data.eval_path=b.jsonl"]


@functools.cache
def _composed(*typed: str) -> Config:
    register()
    return compose(to_overrides(typed))[0]


def composed(*typed: str) -> Config:
    """The settings of `ta train` with these typed. Hydra takes a tenth of a second each time."""
    return copy.deepcopy(_composed(*typed))


def nested(key: str, value: object) -> dict:
    """`a.b`, 1 -> {"a": {"b": 1}}"""
    for name in reversed(key.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


# What ships


def test_every_shipped_file_is_known_to_these_tests_and_says_what_it_is_for():
    for group, names in SHIPPED.items():
        found = choices(group, [shipped_folder()])
        assert list(found) == names
        assert all(len(summary) > 10 and "@package" not in summary for summary in found.values())


@pytest.mark.parametrize("experiment", SHIPPED["experiments"])
def test_every_experiment_composes(experiment):
    config = composed(f"experiment={experiment}")
    assert config.experiment == experiment
    assert config.data.datasets
    assert config.data.eval_datasets


@pytest.mark.parametrize("data", SHIPPED["data"])
def test_every_corpus_composes(data):
    config = composed(f"data={data}", *(OWN_DATA if data == "custom" else []))
    assert config.data.name == data
    assert bool(config.data.datasets) == (data != "leaderboard"), "which is for ta eval alone"
    assert config.data.eval_datasets


@pytest.mark.parametrize(("training", "steps"), [("default", 50_000), ("fast", 5000), ("high_quality", 100_000)])
def test_every_training_preset_composes_and_beats_the_experiment(training, steps):
    config = composed("experiment=mosa", f"training={training}")
    assert config.training.max_steps == steps
    assert config.model.projector_type == "mosa"


def test_the_yaml_shows_every_setting_and_agrees_with_the_schema():
    shown = OmegaConf.load(shipped_folder() / "config.yaml")
    shown.training = OmegaConf.load(shipped_folder() / "training" / "default.yaml")
    shown.data = OmegaConf.merge(OmegaConf.load(shipped_folder() / "data" / "custom.yaml"), shown.data)
    for key in setting_keys(Config):
        section, _, name = key.rpartition(".")
        assert name in OmegaConf.select(shown, section, default=shown), f"{key} stands in no YAML file"
    config = composed()
    defaults = Config()
    defaults.data.name = config.data.name
    defaults.data.datasets, defaults.data.eval_datasets = config.data.datasets, config.data.eval_datasets
    assert config == defaults


def test_without_an_experiment_it_is_the_main_run():
    assert composed() == composed("experiment=transcription")
    assert composed().experiment == "transcription"


def test_the_experiments_hold_the_values_of_the_specification():
    def values(name: str) -> tuple:
        training = composed(f"experiment={name}").training
        return training.learning_rate, training.max_steps, training.warmup_steps, training.weight_decay

    assert values("transcription") == (5e-4, 50_000, 1000, 0.01)
    assert values("mosa") == (3e-4, 60_000, 1000, 0.01)
    assert values("moe") == (3e-4, 70_000, 1000, 0.01)
    assert values("qformer") == (2e-4, 80_000, 2000, 0.05)
    assert values("mlp_lora") == (1e-4, 20_000, 500, 0.01)
    assert values("mlp_fine_tune") == (5e-5, 10_000, 200, 0.01)


# As the specification gives them; None stands for "not set".
DEFAULTS = {
    "model": {
        "encoder": "zai-org/GLM-ASR-Nano-2512", "decoder": "Qwen/Qwen3-0.6B", "projector_type": "mlp",
        "projector_checkpoint": None, "checkpoint": None, "freeze_projector": False, "freeze_lora": False,
        "use_lora": False,
    },
    "model.lora_config": {
        "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj", "o_proj"],
    },
    "model.projector_config": {"input_dim": None, "output_dim": None},
    "training": {
        "max_steps": 50_000, "batch_size": 16, "gradient_accumulation_steps": 1, "learning_rate": 5e-4,
        "weight_decay": 0.01, "warmup_steps": 1000, "eval_steps": 500, "save_steps": 5000, "save_total_limit": 5,
        "save_best_only": False, "metric_for_best": "wer", "greater_is_better": False, "gradient_clip_norm": 1.0,
        "resume_from_checkpoint": None,
    },
    "data": {
        "sample_rate": 16_000, "max_audio_length": 30, "num_workers": 4, "prefetch_factor": 2, "max_samples": None,
        "name": "multi_asr",
    },
    "logging": {
        "use_wandb": True, "project_name": "tiny-audio", "entity": None, "run_name": None, "tags": [], "notes": None,
        "log_steps": 100,
    },
    "hardware": {"device": "auto", "mixed_precision": "auto", "compile": False},
    "paths": {"output_dir": "./outputs", "cache_dir": "./cache", "data_dir": "./data"},
}  # fmt: skip
PROJECTORS = {
    "transcription": ("mlp", {"hidden_dim": 2048, "frame_stack": 4, "dropout": 0.1}),
    "mosa": ("mosa", {"num_experts": 4, "expert_dim": 512, "frame_stack": 4, "dropout": 0.1}),
    "moe": (
        "moe",
        {"num_experts": 8, "num_experts_per_token": 2, "expert_dim": 512, "frame_stack": 4, "dropout": 0.1,
         "load_balancing_loss_weight": 0.01},
    ),
    "qformer": ("qformer", {"num_queries": 32, "num_layers": 2, "num_heads": 8, "hidden_dim": 2048, "dropout": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("group", DEFAULTS)
def test_every_key_of_the_specification_is_there_with_its_default(group):
    found = composed().to_dict()
    for name in group.split("."):
        found = found[name]
    assert {key: found[key] for key in DEFAULTS[group]} == DEFAULTS[group]


@pytest.mark.parametrize("experiment", PROJECTORS)
def test_the_projectors_of_the_experiments_are_those_of_the_specification(experiment):
    kind, values = PROJECTORS[experiment]
    model = composed(f"experiment={experiment}").model
    assert model.projector_type == kind
    with torch.device("meta"):
        found = asdict(build_projector(kind, model.projector_config, 1280, 1024).config)  # its encoder and decoder
    assert {key: found[key] for key in values} == values


def test_the_rest_of_what_the_specification_says_of_the_experiments():
    assert composed("experiment=moe").training.gradient_clip_norm == 1.0
    assert composed("experiment=qformer").training.save_steps == composed("training=high_quality").training.save_steps
    config = composed(
        "data.datasets=[{name: librispeech, split: train-clean-360, weight: 0.3}, {name: common_voice, language: en, "
        "split: train, weight: 0.2}, {name: gigaspeech, subset: L, split: train, weight: 0.3}, {name: tedlium, "
        "release: 3, split: train, weight: 0.1}, {name: voxpopuli, language: en, split: train, weight: 0.1}]"
    )
    assert config.data.datasets == composed("data=multi_asr").data.datasets


def test_the_mixture_of_corpora():
    weights = {entry.name: entry.weight for entry in composed("data=multi_asr").data.datasets}
    assert weights == {
        "librispeech": 0.3,
        "common_voice": 0.2,
        "gigaspeech": 0.3,
        "tedlium": 0.1,
        "voxpopuli": 0.1,
    }


def test_the_stages_start_where_the_stage_before_ended():
    lora = composed("experiment=mlp_lora", "paths.output_dir=runs").model
    assert lora.projector_checkpoint == "runs/transcription/checkpoints/final.pt"
    assert (lora.freeze_projector, lora.freeze_lora, lora.use_lora) == (True, False, True)
    both = composed("experiment=mlp_fine_tune").model
    assert both.checkpoint == "./outputs/mlp_lora/checkpoints/final.pt"
    assert (both.freeze_projector, both.freeze_lora, both.use_lora) == (False, False, True)


# Who wins


def test_an_experiment_beats_the_preset_it_names():
    training = composed("experiment=qformer").training
    assert (training.learning_rate, training.eval_steps) == (2e-4, 1000)  # its own; high_quality's


def test_typed_presets_beat_the_experiment_wholly_and_in_any_order():
    config = composed("data=common_voice", "training=high_quality", "experiment=quickstart")
    assert config.model.encoder == "pocket"
    left_open = {"cache_features": True}  # the preset does not set it
    assert config.data == replace(composed("data=common_voice").data, **left_open)
    assert config.training == composed("training=high_quality").training


def test_a_typed_value_beats_everything():
    typed = ("training.max_steps=7", "experiment=mosa", "training=high_quality", "training.batch_size=8")
    training = composed(*typed).training
    assert (training.max_steps, training.batch_size, training.warmup_steps) == (7, 8, 2000)


def test_a_corpus_of_ones_own():
    data = composed("data=custom", *OWN_DATA).data
    assert [entry.path for entry in data.datasets] == ["a.jsonl"]
    assert [entry.path for entry in data.eval_datasets] == ["b.jsonl"]
    several = "data.datasets=[{path: a, weight: 2}, {path: b}]"
    data = composed("data=custom", several, "data.eval_path=c").data
    assert [(entry.path, entry.weight) for entry in data.datasets] == [("a", 2.0), ("b", 1.0)]


# Values


def test_values_as_people_write_them():
    config = composed(
        "training.learning_rate=5e-4",
        "training.gradient_clip_norm=null",
        "hardware.mixed_precision=no",
        "logging.tags=[a,b]",
        "data.datasets=[{path:x.jsonl,weight:2}]",
        "data.datasets.0.split=test",
        'model.prompt="a, b: c"',
    )
    assert config.training.learning_rate == 5e-4
    assert config.training.gradient_clip_norm is None
    assert config.hardware.mixed_precision == "no"
    assert config.logging.tags == ["a", "b"]
    assert config.data.datasets == [DatasetConfig(path="x.jsonl", weight=2, split="test")]
    assert config.model.prompt == "a, b: c"


def test_no_in_yaml_is_a_boolean_and_is_understood():
    values = OmegaConf.create("hardware: {mixed_precision: no}")
    assert build_config(values).hardware.mixed_precision == "no"


def test_settings_survive_being_written_and_read():
    config = composed("experiment=mlp_lora", "data=custom", *OWN_DATA)
    assert build_config(config.to_dict()) == config


WRONG = [
    ("training.batch_size", 0, "training.batch_size must be at least 1, got 0."),
    ("training.batch_size", "abc", "training.batch_size must be a whole number, got abc."),
    ("training.batch_size", 1.5, "training.batch_size must be a whole number, got 1.5."),
    ("training.batch_size", True, "training.batch_size must be a whole number, got True."),
    ("model.encoder_layers", ["a"], "model.encoder_layers[0] must be a whole number, got a."),
    ("data.speeds", [1.0, "a"], "data.speeds[1] must be a number, got a."),
    ("training.batch_size", None, "training.batch_size must be a whole number, got null."),
    ("training.learning_rate", 0, "training.learning_rate must be greater than 0, got 0."),
    ("training.learning_rate", "inf", "training.learning_rate must be a finite number, got inf."),
    ("training.learning_rate", 5, "training.learning_rate must be at most 1, got 5."),
    ("training.learning_rate", "nan", "training.learning_rate must be a finite number, got nan."),
    ("training.weight_decay", -1, "training.weight_decay must be at least 0, got -1."),
    ("training.weight_decay", "inf", "training.weight_decay must be a finite number, got inf."),
    ("training.min_learning_rate_ratio", 2,
     "training.min_learning_rate_ratio must be between 0 and 1, got 2."),
    ("training.lr_schedule", "cosin",
     "training.lr_schedule must be one of cosine, linear, constant, got cosin. Did you mean cosine?"),
    ("training.metric_for_best", "bleu", "training.metric_for_best must be one of wer, cer, loss, got bleu."),
    ("model.projector_type", "mosaa",
     "model.projector_type must be one of mlp, mosa, moe, qformer, conv, got mosaa. Did you mean mosa?"),
    ("model.projector_config.dropout", 1,
     "model.projector_config.dropout must be at least 0 and below 1, got 1."),
    ("model.projector_config", 5, "a group of settings (ProjectorConfig) is expected, got 5."),
    ("model.prompt", " ", "model.prompt must not be empty."),
    ("model.lora_config.r", 0, "model.lora_config.r must be at least 1, got 0."),
    ("model.freeze_projector", True,
     "model.freeze_projector=true leaves nothing to train; train LoRA with model.use_lora=true "
     "model.freeze_lora=false, or the projector with model.freeze_projector=false."),
    ("model.encoder", "THUDM/glm-asr-large",
     "model.encoder=THUDM/glm-asr-large does not exist; the published model is zai-org/GLM-ASR-Nano-2512."),
    ("data.sample_rate", 8000,
     "data.sample_rate must be 16000, which the encoders were trained at, got 8000; "
     "recordings of any rate are resampled on reading."),
    ("data.max_audio_length", 31, "data.max_audio_length must be at most 30 seconds, got 31."),
    ("data.max_audio_length", 0.05, "data.max_audio_length must be greater than 0.1, got 0.05."),
    ("data.train_path", "a.jsonl", "data.train_path=a.jsonl is read by data=custom only; add data=custom."),
    ("data.datasets", 3, "data.datasets must be a list such as [a,b], got 3."),
    ("data.datasets", ["path:x"],
     "data.datasets[0] must be a group such as {path: a.jsonl}, in quotes for the shell, got path:x."),
    ("data.datasets", [{"path": "x", "weight": 0}],
     "data.datasets: weight of custom must be greater than 0, got 0."),
    ("data.datasets", [{}],
     "data=custom needs your recordings for training and for evaluation, each a manifest (.jsonl, .csv), "
     "a folder or a Hub id: data.train_path=my/train.jsonl data.eval_path=my/dev.jsonl"),
    ("hardware.device", "cuda:x",
     "hardware.device must be one of auto, cuda, mps, cpu, got cuda:x. Did you mean cuda?"),
    ("hardware.compile", "maybe", "hardware.compile must be true or false, got maybe."),
    ("hardware.mixed_precision", "fp8",
     "hardware.mixed_precision must be one of auto, bf16, fp16, no, got fp8."),
    ("logging.tags", "a", "logging.tags must be a list such as [a,b], got a."),
    ("training.batch_sise", 8, "there is no setting training.batch_sise. Did you mean training.batch_size?"),
    ("batch_size", 8, "there is no setting batch_size. Did you mean training.batch_size?"),
    ("trainning", {}, "there is no setting trainning. Did you mean training?"),
    ("model.lora_config.rank", 8,
     "there is no setting model.lora_config.rank; model.lora_config has r, lora_alpha, lora_dropout, "
     "target_modules."),
    ("zzz", 1, "there is no setting zzz; `ta train --cfg job` prints them all."),
    ("training.seed", "${foo}",
     "training.seed is ${foo}: stored settings must be plain values; references are not resolved."),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), WRONG, ids=[f"{key}={value}" for key, value, _ in WRONG])
def test_what_is_said_of_a_wrong_value(key, value, message):
    with pytest.raises(ConfigError) as error:
        build_config(nested(key, value))
    assert str(error.value) == message


def test_what_was_typed_is_looked_up():
    with pytest.raises(ConfigError, match=r"training\.seed: Interpolation key 'foo' not found\."):
        build_config(OmegaConf.create({"training": {"seed": "${foo}"}}))


def test_more_active_experts_than_there_are():
    with pytest.raises(ConfigError, match="must be at most num_experts, which is 8, got 9"):
        build_config({"model": {"projector_type": "moe", "projector_config": {"num_experts_per_token": 9}}})


def test_devices_with_a_number():
    assert build_config({"hardware": {"device": "cuda:1"}}).hardware.device == "cuda:1"


TYPED_WRONG = [
    ("data=librispech",
     "data=librispech does not exist. Did you mean librispeech? There are common_voice, custom, "
     "leaderboard, librispeech, librispeech_small, loquacious, multi_asr, pocket."),
    ("training=null",
     "experiment, data and training take a name, as in training=fast; `ta train --help` lists them."),
    ("experiment=[mosa,moe]", "experiment must be the name of one experiment; `ta train --help` lists them."),
    ("exprimant=mosa", "there is no setting exprimant. Did you mean experiment?"),
    ("+training.batch_sise=8", "there is no setting training.batch_sise. Did you mean training.batch_size?"),
    ("+training.batch_size=8", "training.batch_size exists already: leave out the + before it."),
    ("training.batch_size", "training.batch_size is not a setting; settings are written key=value."),
    ("training.batch_size=1,2",
     "training.batch_size=1,2 is several values: add -m to run them one after the other, write "
     "training.batch_size=[1,2] for a list, or 'training.batch_size=\"1,2\"' for one text."),
    ("model.checkpoint=a b/c=d.pt",
     "model.checkpoint=a b/c=d.pt cannot be read; quote the value: 'model.checkpoint=\"a b/c=d.pt\"'"),
    ("data.datasets=[{path:x]",
     "data.datasets=[{path:x] cannot be read; a list is written [a,b], with quotes around it for the shell."),
    ("data.datasets=[{path:x,wieght:2}]",
     "an entry of data.datasets has no key wieght. Did you mean weight? The keys are name, path, split, "
     "subset, language, release, revision, weight, audio_column, text_column, context_column, channel."),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "message"), TYPED_WRONG, ids=[typed for typed, _ in TYPED_WRONG])
def test_what_is_said_of_what_was_typed(typed, message):
    with pytest.raises(UserError) as error:
        composed(typed)
    assert str(error.value) == message
