"""`ta push`: a card that claims no more than is known, and an upload that is asked for, whole, and of nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import tiny_audio
from hub_stub import HubStub, at_hub, serving
from runs import run_ta
from tiny_audio.cli import main
from tiny_audio.errors import UserError
from tiny_audio.inference import opened
from tiny_audio.publish.card import build_card, read_figures
from tiny_audio.publish.folder import public_name
from tiny_audio.publish.licenses import languages_of, license_of, license_of_corpus

# huggingface_hub uploads large files in a way that its HTTP client is to give up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TOKEN = "hf_" + "x" * 34


@pytest.fixture(scope="session")
def run(trained) -> Path:
    return trained.parents[1]


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "exported"
    assert main(["export", f"checkpoint={run}", f"output={folder}", "clips=0"]) == 0
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[HubStub]:
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as server, at_hub(server.endpoint, tmp_path / "here"):
        server.may_write = {TOKEN: {"me"}}
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(opened, "hub_reachable", lambda: True)
        yield server


def wrote(hub: HubStub) -> bool:
    return any(line.startswith(("POST", "PUT")) for line in hub.requests)


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_what_was_pushed_opens_from_the_hub_and_writes_the_same(run, exported, corpus, hub, capsys):
    assert main(["push", f"checkpoint={exported}", "repo=me/recognizer", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.endpoint}/me/recognizer"
    there = tiny_audio.load_model("me/recognizer", device="cpu").transcribe(corpus / "dev0.flac")
    assert there == tiny_audio.load_model(run, device="cpu").transcribe(corpus / "dev0.flac")
    names = {
        p.relative_to(hub.root / "models/me/recognizer").as_posix() for p in hub.root.rglob("me/**/*") if p.is_file()
    }
    assert names >= {"README.md", "model.safetensors", "config.json", "tiny_audio/model.json", "chat_template.jinja"}


def test_a_model_without_a_native_class_is_pushed_from_python(run_settings, corpus, hub, tmp_path):
    mosa = ("model.projector_type=mosa", "model.projector_config.expert_dim=16")
    status, log = run_ta(["train", *run_settings, "training.max_steps=2", *mosa], tmp_path)
    assert status == 0, log
    model = tiny_audio.load_model(tmp_path / "outputs/transcription", device="cpu")
    assert model.push_to_hub("me/mosa", private=True) == f"{hub.endpoint}/me/mosa"
    assert hub.private == {"me/mosa"}
    card = (hub.root / "models/me/mosa/README.md").read_text()
    assert metadata(card)["library_name"] == "tiny-audio"
    assert "AutoProcessor" not in card
    found = tiny_audio.load_model("me/mosa", device="cpu").transcribe(corpus / "dev0.flac")
    assert found == model.transcribe(corpus / "dev0.flac")


def test_nothing_is_uploaded_without_yes(exported, hub, capsys):
    assert main(["push", f"checkpoint={exported}", "repo=me/recognizer"]) == 2
    said = capsys.readouterr()
    assert "add --yes" in said.err
    assert "me/recognizer (public)" in said.out
    assert "model.safetensors" in said.out
    assert not wrote(hub)


def test_a_dry_run_needs_no_token_and_no_network(exported, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main(["push", f"checkpoint={exported}", "repo=me/recognizer", "--dry-run"]) == 0
    card = capsys.readouterr().out
    assert main(["push", f"checkpoint={exported}", "repo=me/x", "--dry-run", f"output={tmp_path}/R.md"]) == 0
    assert (tmp_path / "R.md").read_text() == card.replace("me/recognizer", "me/x").replace("# recognizer", "# x")
    about = metadata(card)
    assert (about["license"], about["pipeline_tag"]) == ("other", "automatic-speech-recognition")
    assert "that of a part is not known" in card


def test_what_goes_wrong_at_the_hub_is_one_line(exported, hub, capsys, monkeypatch):
    def push(repo: str, *more: str) -> str:
        assert main(["push", f"checkpoint={exported}", f"repo={repo}", "--yes", *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "may not write there" in push("you/recognizer")
    assert "user/name" in push("recognizer")
    (hub.root / "models/me/novel").mkdir(parents=True)
    (hub.root / "models/me/novel/chapter.txt").write_text("Once")
    assert "holds something else (chapter.txt)" in push("me/novel")
    assert (hub.root / "models/me/novel/chapter.txt").read_text() == "Once"
    (hub.root / "models/me/empty").mkdir()
    assert "exists and is public" in push("me/empty", "private=true")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 34)
    assert "does not know this token" in push("me/recognizer")
    monkeypatch.setenv("HF_TOKEN", "")
    assert "no token" in push("me/recognizer")
    assert not (hub.root / "models/me/recognizer").exists()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in push("me/recognizer")


def test_an_upload_that_broke_off_goes_on_and_replaces_what_is_old(exported, hub, capsys):
    hub.failures = 1
    assert main(["push", f"checkpoint={exported}", "repo=me/recognizer", "--yes"]) == 2
    assert "the Hub refused it (400" in capsys.readouterr().err
    assert main(["push", f"checkpoint={exported}", "repo=me/recognizer", "--yes"]) == 0
    place = hub.root / "models/me/recognizer"
    (place / "old.json").write_text("{}")
    hub.requests.clear()
    assert main(["push", f"checkpoint={exported}", "repo=me/recognizer", "--yes"]) == 0
    assert not (place / "old.json").exists()
    assert not any(line.startswith("PUT") for line in hub.requests), "what is there is not sent again"


def test_what_is_not_of_the_export_stays_and_secrets_and_paths_are_refused(exported, hub, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    (folder / ".env").write_text("PASSWORD=1")
    (folder / "README.md").write_text("mine")
    assert main(["push", f"checkpoint={folder}", "repo=me/recognizer", "--yes"]) == 0
    assert "left out: .env" in capsys.readouterr().out
    place = hub.root / "models/me/recognizer"
    assert not (place / ".env").exists()
    assert (place / "README.md").read_text() == "mine"
    hub.requests.clear()
    config = json.loads((folder / "config.json").read_text())
    for leak, said in ((TOKEN, "a token of the Hub"), (str(tmp_path), "a path of this machine")):
        (folder / "config.json").write_text(json.dumps(config | {"note": leak}))
        assert main(["push", f"checkpoint={folder}", "repo=me/recognizer", "--yes"]) == 2
        assert f"config.json {'holds' if leak == TOKEN else 'names'}" in (line := capsys.readouterr().err)
        assert said in line
    assert not wrote(hub)


def test_figures_come_with_their_rule_and_interval_and_of_the_same_step(run, exported, corpus, tmp_path, capsys):
    checkpoint = run / "checkpoints/final.pt"
    assert main(["eval", f"checkpoint={checkpoint}", f"report={tmp_path}/judged", "device=cpu"]) == 0
    capsys.readouterr()
    report = f"report={tmp_path}/judged"
    assert main(["push", f"checkpoint={exported}", "repo=me/recognizer", report, "--dry-run"]) == 0
    card = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "judged/eval.json").read_text())["results"]
    low, high = 100 * row["wer_low"], 100 * row["wer_high"]
    assert f"| {row['wer']:.1%} | {low:.1f} to {high:.1f} % | {row['scoring']} |" in card
    (result,) = metadata(card)["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(100 * row["wer"], abs=0.01)
    assert row["scoring"] in result["metrics"][0]["name"]
    assert str(tmp_path) not in card
    assert str(corpus) not in card
    with pytest.raises(UserError, match="is not a report"):
        read_figures(tmp_path, {"step": 2, "weights": row["weights"]})


def test_figures_of_another_run_with_the_same_step_are_not_taken_for_this_one(run, exported, tmp_path, capsys):
    """The step is the same, and one weight is not."""
    content = torch.load(run / "checkpoints/final.pt", weights_only=True)
    copy = tmp_path / "same.pt"
    torch.save(content, copy)
    weights = content["weights"]["projector"]
    name = next(iter(weights))
    weights[name] = weights[name] + 1e-4
    other = tmp_path / "other.pt"
    torch.save(content, other)
    push = ["push", f"checkpoint={exported}", "repo=me/recognizer", f"report={tmp_path}/judged", "--dry-run"]
    assert main(["eval", f"checkpoint={other}", f"report={tmp_path}/judged", "device=cpu"]) == 0
    capsys.readouterr()
    assert main(push) == 2
    said = capsys.readouterr().err
    assert "is about other.pt of step 1; this model of step 1 has other weights" in said
    assert said.count("\n") == 1
    assert main(["eval", f"checkpoint={copy}", f"report={tmp_path}/judged", "device=cpu"]) == 0
    assert main(push) == 0, "the same weights under another name"


def provenance(encoder: str | None, decoder: str | None, **corpora: str | None) -> dict:
    return {
        "encoder": {"name": "a/encoder", "revision": None, "license": encoder},
        "decoder": {"name": "b/decoder", "revision": None, "license": decoder},
        "corpora": {name: {"origin": name, "license": license} for name, license in corpora.items()},
    }


def test_an_open_license_is_claimed_only_where_all_parts_are_known_to_allow_it():
    assert license_of(provenance("mit", "mit", one="cc0-1.0"), None) == "mit"
    assert license_of(provenance("mit", "apache-2.0", one="cc-by-4.0"), None) == "apache-2.0"
    assert license_of(provenance("mit", "mit", one="cc-by-sa-4.0"), None) == "cc-by-sa-4.0"
    unknown = provenance("mit", "mit", one=None)
    assert license_of(unknown, None) == "other"
    assert license_of(unknown, "mit") == "mit", "of one's own recordings one's own word is what is known"
    assert license_of(provenance("mit", None), None) == "other"
    assert license_of(provenance("mit", "mit") | {"earlier_stage": True}, None) == "other"
    forbidden = provenance("mit", "mit", tedlium="cc-by-nc-nd-3.0")
    assert license_of(forbidden, None) == "other"
    assert license_of(forbidden, "cc-by-nc-nd-3.0") == "cc-by-nc-nd-3.0"
    with pytest.raises(UserError, match=r"corpus tedlium \(cc-by-nc-nd-3.0\) forbids it"):
        license_of(forbidden, "mit")


def test_corpora_are_known_by_repository_or_name():
    assert license_of_corpus("x", "sanchit-gandhi/tedlium-data@0123456789ab (train)") == "cc-by-nc-nd-3.0"
    assert license_of_corpus("librispeech:train-clean-100", "/home/me/LibriSpeech") == "cc-by-4.0"
    assert license_of_corpus("librispeech at 0.9x", "/home/me/LibriSpeech") == "cc-by-4.0"
    assert license_of_corpus("mine.jsonl", "/home/me/mine.jsonl") is None
    assert license_of_corpus("pocket", "/x/tiny_audio/pocket/speech/train.jsonl") == "cc0-1.0"
    assert license_of_corpus("pocket", "/x/my/pocket/speech/train.jsonl") is None
    assert public_name("openslr/librispeech_asr@0123456789ab (train.100)").startswith("openslr/librispeech_asr@")
    german = {"name": "common_voice", "path": None, "language": "de"}
    english = {"name": "librispeech", "path": None, "language": None}
    assert languages_of([german, english]) == ["de", "en"]
    assert languages_of([english, {"name": "custom", "path": "x", "language": None}]) == []


def test_the_card_names_models_and_corpora_of_the_hub(exported):
    record = json.loads((exported / "tiny_audio/model.json").read_text())
    about = provenance("mit", "mit", librispeech="cc-by-4.0")
    about["corpora"]["librispeech"] |= {"origin": "openslr/librispeech_asr@0123456789ab (train.100)"}
    about["corpora"]["librispeech"] |= {"clips": 1000, "hours": 3.5, "weight": 1.0}
    record["provenance"] |= about | {"languages": ["en"]}
    card = build_card(record, "me/x", [], None)
    told = metadata(card)
    assert told["base_model"] == ["a/encoder", "b/decoder"]
    assert told["datasets"] == ["openslr/librispeech_asr"]
    assert (told["language"], told["license"], told["library_name"]) == (["en"], "mit", "transformers")
    assert "openslr/librispeech_asr@0123456789ab (train.100) | 1,000 | 3.5" in card
    assert 'padding="longest"' in card, "it was trained on bare clips"
