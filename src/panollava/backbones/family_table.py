"""Which families of language models work. `tests/backbones/test_families.py` tries each row; docs/models.md shows them.

A row is no permission: every checkpoint's own configuration is tried before it is used, whatever its family.
"""

from typing import Any, Literal, NamedTuple

from panollava.markdown import markdown_table


class Family(NamedTuple):
    """A family: its name, the model type of its configuration, what became of it, and what is to be known.

    `works`: its layers and logits are plain. `own path`: PanoLLaVA does something of this family's alone. `refused`:
    with the reason, which begins as the refusal does.
    """

    name: str
    model_type: str
    outcome: Literal["works", "own path", "refused"]
    remark: str = ""


CAPPED = "its logits are capped"
SCALED = "its logits are scaled"
EMBEDDED = "visual tokens start at the size of its scaled embeddings"
INSIDE = "also inside its vision-language checkpoints"
EXPERTS = "mixture of experts; LoRA leaves these out"
LATENT = "it caches latents, a panorama's prefix keys and values"
SCORES = "attention with capped scores or sinks, for which there is no fused kernel"
LINEAR = "it has layers of linear_attention"
STATES = "it has state-space layers"
NAMES = "its model has no"
FAMILIES = (
    Family("Llama 1–3, Vicuna, Yi, SmolLM2", "llama", "works"),
    Family("Mistral", "mistral", "works", INSIDE),
    Family("Ministral", "ministral", "works"),
    Family("Mixtral", "mixtral", "works", EXPERTS),
    Family("Qwen2, Qwen2.5", "qwen2", "works", INSIDE),
    Family("Qwen2-MoE", "qwen2_moe", "works", EXPERTS),
    Family("Qwen3", "qwen3", "works", INSIDE),
    Family("Qwen3-MoE", "qwen3_moe", "works", EXPERTS),
    Family("Gemma", "gemma", "own path", EMBEDDED),
    Family("Gemma 2", "gemma2", "own path", f"{CAPPED}; {SCORES}; {EMBEDDED}"),
    Family("VaultGemma", "vaultgemma", "own path", f"{CAPPED}; {SCORES}; {EMBEDDED}"),
    Family("Gemma 3", "gemma3_text", "own path", f"{CAPPED} where the configuration says so; {EMBEDDED}; {INSIDE}"),
    Family("Gemma 4 without per-layer inputs", "gemma4_text", "own path", f"{CAPPED}; {EMBEDDED}; {INSIDE}"),
    Family("Cohere Command R", "cohere", "own path", SCALED),
    Family("Cohere Command R7B, A", "cohere2", "own path", SCALED),
    Family("Granite", "granite", "own path", SCALED),
    Family("Granite MoE", "granitemoe", "own path", f"{SCALED}; {EXPERTS}"),
    Family("Granite with sliding windows", "granite_swa", "own path", f"{SCALED}; {SCORES}"),
    Family("HyperCLOVA X", "hyperclovax", "own path", SCALED),
    Family("NanoChat", "nanochat", "own path", CAPPED),
    Family("Phi-1, Phi-2", "phi", "own path", "its head has a bias"),
    Family("Phi-3.5-MoE", "phimoe", "own path", f"its head has a bias; {EXPERTS}"),
    Family("Phi-3, Phi-4", "phi3", "own path", "with long-text rotary frequencies the context ends where they begin"),
    Family("OLMo", "olmo", "works"),
    Family("OLMo 2", "olmo2", "works"),
    Family("OLMo 3", "olmo3", "works"),
    Family("OLMoE", "olmoe", "works", EXPERTS),
    Family("SmolLM3", "smollm3", "works"),
    Family("GLM-4 (2024)", "glm", "works"),
    Family("GLM-4 (2025)", "glm4", "works"),
    Family("GLM-4.5", "glm4_moe", "works", EXPERTS),
    Family("EXAONE 4", "exaone4", "works"),
    Family("Seed-OSS", "seed_oss", "works"),
    Family("StarCoder2", "starcoder2", "works"),
    Family("ERNIE 4.5", "ernie4_5", "works"),
    Family("Hunyuan", "hunyuan_v1_dense", "works"),
    Family("Helium", "helium", "works"),
    Family("GPT-NeoX, Pythia", "gpt_neox", "works"),
    Family("Arcee AFM", "arcee", "works"),
    Family("Apertus", "apertus", "works"),
    Family("Persimmon", "persimmon", "works"),
    Family("AFMoE, Trinity", "afmoe", "works", EXPERTS),
    Family("MiniMax-M2", "minimax_m2", "works", EXPERTS),
    Family("ERNIE 4.5 MoE", "ernie4_5_moe", "own path", f"its head may have a bias; {EXPERTS}"),
    Family("gpt-oss", "gpt_oss", "own path", f"{SCORES}; {EXPERTS}"),
    Family("MiMo-V2-Flash", "mimo_v2_flash", "own path", f"{SCORES}; {EXPERTS}"),
    Family("MiniCPM3", "minicpm3", "own path", f"{SCALED}; {LATENT}"),
    Family("DeepSeek-V2", "deepseek_v2", "own path", f"{LATENT}; {EXPERTS}"),
    Family("DeepSeek-V3, R1", "deepseek_v3", "own path", f"{LATENT}; {EXPERTS}"),
    Family("GLM-4.7 Flash", "glm4_moe_lite", "own path", f"{LATENT}; {EXPERTS}"),
    Family("Gemma 3n", "gemma3n_text", "refused", "each layer looks up 256 more inputs by the ids of tokens"),
    Family("DiffLlama", "diffllama", "refused", "its layers change values after the cache"),
    Family("Doge", "doge", "refused", "its layers make attention masks of their own"),
    Family("Nemotron", "nemotron", "refused", "its layers do not pass on how tokens attend"),
    Family("StableLM", "stablelm", "refused", "its layers do not pass on how tokens attend"),
    Family("Qwen3-Next", "qwen3_next", "refused", LINEAR),
    Family("Qwen3.5", "qwen3_5_text", "refused", LINEAR),
    Family("OLMo Hybrid", "olmo_hybrid", "refused", LINEAR),
    Family("MiniMax", "minimax", "refused", LINEAR),
    Family("Kimi Linear", "kimi_linear", "refused", LINEAR),
    Family("Granite 4 hybrid", "granitemoehybrid", "refused", "it has layers of"),
    Family("Jamba", "jamba", "refused", STATES),
    Family("Bamba", "bamba", "refused", STATES),
    Family("Falcon-H1", "falcon_h1", "refused", STATES),
    Family("LFM2", "lfm2", "refused", "it has layers of conv"),
    Family("Llama 4", "llama4_text", "refused", "it has layers of chunked_attention"),
    Family("GPT-J", "gptj", "refused", NAMES),
    Family("GPT-2", "gpt2", "refused", NAMES),
    Family("Falcon", "falcon", "refused", NAMES),
    Family("MPT", "mpt", "refused", NAMES),
    Family("Bloom", "bloom", "refused", NAMES),
    Family("Mamba", "mamba", "refused", NAMES),
)


def family_rows(metrics: dict[str, Any]) -> str:
    """Return the table of families as Markdown; no metrics go into it."""
    cells = [[family.name, f"`{family.model_type}`", family.outcome, family.remark] for family in FAMILIES]
    return markdown_table(["Family", "`model_type`", "Here", "Remark"], cells, left=4)
