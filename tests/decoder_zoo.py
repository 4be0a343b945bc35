"""Tiny random decoders of published classes, and how each can be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from tiny_models import tokenizer

SIZES = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
WINDOW = {"sliding_window": 24}  # shorter than any clip; two layers of it reach the audio from behind the prompt
SECOND_IS_FULL = {"layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8,
    "mamba_expand": 2,
}  # fmt: skip
NEMOTRON = {
    "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1,
    "ssm_state_size": 8, "chunk_size": 8,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1,
}  # fmt: skip
JAMBA = {
    "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "num_experts_per_tok": 1, "mamba_d_state": 8,
    "mamba_dt_rank": 4, "use_mamba_kernels": False,
}  # fmt: skip

SEE_EACH_OTHER = "clips affect each other"


@dataclass(frozen=True)
class Kind:
    """A class of decoders.

    Attributes:
        model_type: as `transformers` calls it.
        options: of its configuration, beside `SIZES`.
        padded: why its clips are read as padded batches; None: they are packed.
        pads_left: whether clips of unequal length are written after together.
    """

    model_type: str
    options: dict[str, Any]
    padded: str | None = None
    pads_left: bool = True

    @property
    def is_known(self) -> bool:
        """Whether the installed `transformers` has it."""
        return self.model_type in CONFIG_MAPPING


PACKED = {
    "qwen2": Kind("qwen2", {}),
    "qwen3": Kind("qwen3", {}),
    "llama": Kind("llama", {}),
    "smollm3": Kind("smollm3", {}),
    "mistral": Kind("mistral", WINDOW),
    "gemma3": Kind("gemma3_text", WINDOW | SECOND_IS_FULL),
    "phi3": Kind("phi3", WINDOW),
    "glm4": Kind("glm4", {}),
    "olmo2": Kind("olmo2", {}),
    "olmo3": Kind("olmo3", WINDOW | SECOND_IS_FULL),
}
MORE_PACKED = {
    "ministral": Kind("ministral", WINDOW),
    "gemma": Kind("gemma", {}),
    "phi": Kind("phi", {}),
    "glm": Kind("glm", {}),
    "olmo": Kind("olmo", {}),
    "granite": Kind("granite", {"embedding_multiplier": 12.0, "logits_scaling": 8.0}),
    "cohere2": Kind("cohere2", WINDOW),
    "gemma4": Kind("gemma4_text", WINDOW | SECOND_IS_FULL | {"hidden_size_per_layer_input": 0}),
    "exaone4": Kind("exaone4", WINDOW),
    "starcoder2": Kind("starcoder2", WINDOW),
    "qwen3_moe": Kind("qwen3_moe", EXPERTS),
    "mixtral": Kind("mixtral", {"num_local_experts": 4}),
    "olmoe": Kind("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v3": Kind("deepseek_v3", LATENT),
    "ministral3": Kind("ministral3", {}),
    "cohere": Kind("cohere", {}),
    "apertus": Kind("apertus", {}),
    "seed_oss": Kind("seed_oss", {}),
    "ernie4_5": Kind("ernie4_5", {}),
    "hunyuan": Kind("hunyuan_v1_dense", {}),
    "gpt2": Kind("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 2048}),
    "gpt_neox": Kind("gpt_neox", {}),
    "opt": Kind("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
}
PADDED = {
    "gemma2": Kind("gemma2", WINDOW | {"query_pre_attn_scalar": 8}, "packed attention has no softcap"),
    "stablelm": Kind("stablelm", {}, SEE_EACH_OTHER),
    "qwen3_5": Kind("qwen3_5_text", LINEAR, SEE_EACH_OTHER),
    "lfm2": Kind("lfm2", {"layer_types": ["conv", "full_attention"], "block_ff_dim": 64}, SEE_EACH_OTHER),
    "falcon_h1": Kind("falcon_h1", MAMBA | {"mamba_d_ssm": 64}, SEE_EACH_OTHER),
    "recurrent_gemma": Kind(
        "recurrent_gemma",
        {"block_types": ["recurrent", "attention"], "attention_window_size": 8, "lru_width": 32},
        SEE_EACH_OTHER,
        pads_left=False,
    ),
}
MORE_PADDED = {
    "qwen3_next": Kind("qwen3_next", LINEAR | EXPERTS, SEE_EACH_OTHER),
    "kimi_linear": Kind(
        "kimi_linear", LATENT | EXPERTS | {"layer_types": ["linear_attention", "full_attention"]}, SEE_EACH_OTHER
    ),
    "nemotron": Kind("nemotron", {}, SEE_EACH_OTHER),
    "falcon_mamba": Kind("falcon_mamba", {"state_size": 8}, "not enough values to unpack (expected 2, got 1)"),
    "vaultgemma": Kind("vaultgemma", WINDOW | {"query_pre_attn_scalar": 8}, "packed attention has no softcap"),
    "granite_swa": Kind("granite_swa", WINDOW, "packed attention has no s_aux"),
    "lfm3": Kind("lfm3", {}, "its sliding window cannot be tried"),
    "granitemoehybrid": Kind(
        "granitemoehybrid",
        MAMBA | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 64, "num_local_experts": 0},
        SEE_EACH_OTHER,
    ),
    "bamba": Kind("bamba", MAMBA | {"attn_layer_indices": [1]}, SEE_EACH_OTHER),
    "jamba": Kind("jamba", JAMBA, SEE_EACH_OTHER),
    "olmo_hybrid": Kind("olmo_hybrid", LINEAR, SEE_EACH_OTHER),
    "nemotron_h": Kind("nemotron_h", NEMOTRON, SEE_EACH_OTHER),
    "mamba2": Kind(
        "mamba2", {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}, SEE_EACH_OTHER
    ),
    "gpt_oss": Kind(
        "gpt_oss", WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2}, "packed attention has no s_aux"
    ),
    "gpt_neo": Kind(
        "gpt_neo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
        SEE_EACH_OTHER,
    ),
    "bloom": Kind("bloom", {"n_layer": 2, "n_head": 4}, "too many values to unpack (expected 2)"),
}
#: Keep more than keys and values: `transformers` writes after them, until the last clip of a batch has ended.
STATEFUL = frozenset(
    (
        *("qwen3_5", "lfm2", "falcon_h1", "recurrent_gemma", "qwen3_next", "kimi_linear", "falcon_mamba", "lfm3"),
        *("granitemoehybrid", "bamba", "jamba", "olmo_hybrid", "nemotron_h", "mamba2"),
    )
)
REFUSED = {"gemma4 with embeddings in each layer": Kind("gemma4_text", WINDOW | SECOND_IS_FULL)}
ZOO = PACKED | MORE_PACKED | PADDED | MORE_PADDED | REFUSED


def make(name: str, seed: int = 0) -> Any:
    """Build one, with weights wide enough that what a layer does can be seen, and greedy decoding has no near ties."""
    kind = ZOO[name]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind.model_type, **SIZES | kind.options)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.15)
    return model.eval()


def save(name: str, folder: Path) -> Path:
    """Write one as the Hub holds it, with the tiny tokenizer."""
    make(name).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
