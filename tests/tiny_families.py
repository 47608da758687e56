"""Tiny configurations of families of language models, as their checkpoints have them but for the sizes."""

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT: dict[str, Any] = {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}  # fmt: skip
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
DEEPSEEK = LATENT | {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip
# What the configuration of each family has beside `SIZES`, by model type.
CHANGES: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_chunk_size": 16},
    "bloom": {"n_layer": 2, "n_head": 4},
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {"logit_scale": 0.0625, "layer_types": SLIDING["layer_types"], "sliding_window": 16},
    "deepseek_v2": DEEPSEEK | {"topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0},
    "deepseek_v3": DEEPSEEK,
    "afmoe": SLIDING | {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "num_dense_layers": 1},
    "ernie4_5": {"head_dim": 16},
    "ernie4_5_moe": {"use_bias": True, "moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1},
    "exaone4": SLIDING,
    "gemma": {"head_dim": 16},
    "gemma2": SLIDING | {"head_dim": 16, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "gemma3_text": SLIDING | {"head_dim": 16, "final_logit_softcapping": 3.0},
    "gemma3n_text": SLIDING | {"head_dim": 16, "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.0]},
    "gemma4_text": SLIDING | {
        "head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 0, "final_logit_softcapping": 3.0,
    },
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "glm4_moe": DEEPSEEK | {"head_dim": 16, "num_key_value_heads": 2},
    "glm4_moe_lite": DEEPSEEK,
    "gpt2": GPT,
    "gpt_oss": SLIDING | {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gptj": GPT | {"rotary_dim": 8},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.1},
    "granite_swa": SLIDING | {"logits_scaling": 8.0},
    "granitemoe": {"logits_scaling": 6.0, "num_local_experts": 4, "num_experts_per_tok": 2},
    "helium": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hyperclovax": {"logits_scaling": 0.125},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {"head_dim": 16, "layer_types": ["chunked_attention", "full_attention"]},
    "minicpm3": LATENT | {"dim_model_base": 16},
    "minimax": LINEAR | {"head_dim": 16, "num_local_experts": 4},
    "minimax_m2": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "ministral": SLIDING | {"head_dim": 16},
    "mistral": {"sliding_window": 16},
    "mixtral": {"num_local_experts": 4},
    "nanochat": {"final_logit_softcapping": 3.0},
    "nemotron": {"head_dim": 16},
    "olmo3": SLIDING,
    "olmo_hybrid": LINEAR,
    "olmoe": EXPERTS,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 64},
    "phi3": {"pad_token_id": 0},
    "phimoe": {"num_local_experts": 4, "lm_head_bias": True, "attention_bias": True},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 32},
    "qwen3": {"head_dim": 16},
    "qwen3_5_text": LINEAR | {"head_dim": 16},
    "qwen3_moe": EXPERTS | {"head_dim": 16},
    "qwen3_next": LINEAR | EXPERTS | {"head_dim": 16},
    "seed_oss": {"head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 0]},
    "stablelm": {"partial_rotary_factor": 0.25},
    "vaultgemma": SLIDING | {"head_dim": 16, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
}  # fmt: skip


def family_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """Return the tiny configuration of a family."""
    own = CHANGES.get(model_type, {})
    sizes = {} if own.get("n_layer") and own.get("n_embd") else SIZES
    return CONFIG_MAPPING[model_type](**(sizes | own | changes))
