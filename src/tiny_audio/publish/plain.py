"""Transcribe clips with an exported folder and plain `transformers`: a separate script, without Tiny Audio.

    python -P plain.py FOLDER JOB RESULT

JOB is an .npz file: `limits` (B,) of new tokens and the clips `0`, `1`, ... of samples at 16 kHz. RESULT is JSON: for
each way of padding, the texts and the logits after the prompt of each clip.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

WAYS = {
    "stock": {},  # silence to 30 s
    "bare": {"padding": "longest", "pad_to_multiple_of": 1280},
}


@torch.inference_mode()
def main() -> None:
    """Write the result."""
    folder, job, result = sys.argv[1:]
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    question = processor.apply_chat_template([{"role": "user", "content": "Whatever."}], tokenize=False)
    with np.load(job) as clips:
        limits = clips["limits"].tolist()
        waveforms = [clips[str(number)] for number in range(len(limits))]
    found: dict[str, object] = {}
    for way, padding in WAYS.items():
        if way == "bare" and model.config.audio_config.model_type != "glmasr_encoder":
            continue  # this encoder only has a window of 30 s
        texts, logits = [], []
        for waveform, limit in zip(waveforms, limits, strict=True):
            inputs = processor(text=[question], audio=[waveform], sampling_rate=16_000, **padding)
            logits.append(model(**inputs, logits_to_keep=1).logits[0, -1].tolist())
            written = model.generate(**inputs, max_new_tokens=limit)[:, inputs["input_ids"].shape[1] :]
            texts.append(processor.batch_decode(written, skip_special_tokens=True)[0].strip())
        found[way] = {"texts": texts, "logits": logits}
    assert "tiny_audio" not in sys.modules
    with open(result, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(found, file)


if __name__ == "__main__":
    main()
