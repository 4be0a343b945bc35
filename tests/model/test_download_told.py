"""Before weights are fetched from the Hub, one line says which and how large; and nothing where they are here."""

from __future__ import annotations

import logging
import shutil

import torch

from hub_stub import at_hub, serving
from tiny_audio.model import weights
from tiny_audio.model.decoder import load_decoder
from tiny_audio.model.encoder import load_encoder


def test_a_download_is_told_with_its_size_before_it_begins(tiny_models, tmp_path, monkeypatch, caplog):
    for name, folder in (("me/ears", tiny_models.whisper), ("me/mouth", tiny_models.qwen3)):
        shutil.copytree(folder, tmp_path / "hub/models" / name)
    monkeypatch.setattr(weights, "hub_reachable", lambda: True)
    caplog.set_level(logging.INFO, "tiny_audio")

    def load() -> list[str]:
        caplog.clear()
        load_encoder("me/ears", None, torch.float32)
        load_decoder("me/mouth", None, "Transcribe.", torch.float32)
        load_encoder(str(tiny_models.whisper), None, torch.float32)
        load_decoder("pocket", None, "Transcribe.", torch.float32)
        return [record.message for record in caplog.records if "downloading" in record.message]

    with serving(tmp_path / "hub") as server, at_hub(server.endpoint, tmp_path / "here"):
        told = load()
        assert [line.partition(" is")[0] for line in told] == ["model.encoder: me/ears", "model.decoder: me/mouth"]
        size = (tiny_models.whisper / "model.safetensors").stat().st_size / 1e6
        assert f"downloading {size:.1f} MB into {tmp_path}" in told[0]
        lookups = [i for i, line in enumerate(server.requests) if "blobs=true" in line.lower()]
        fetched = next(
            i for i, line in enumerate(server.requests) if "storage/models/me/ears/model.safetensors" in line
        )
        assert lookups[0] < fetched
        assert load() == [], "now they are in the cache"
