"""Random checkpoints of the sizes of real models, on disk as a hub's are: for the whole pipeline where no hub is.

`python -m panollava.bench.random_checkpoints 7b FOLDER` writes an encoder into FOLDER/encoder and a language model into
FOLDER/llm. What they answer means nothing; how long it takes, and how much memory, is that of trained weights.
"""

import sys
from pathlib import Path

import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, SiglipVisionConfig, SiglipVisionModel

from panollava.backbones.assemble import Parts
from panollava.backbones.files import new_checkpoint
from panollava.backbones.presets import resolve
from panollava.backbones.standins.described_scenes import describe_scene
from panollava.backbones.tokenizer import train_tokenizer
from panollava.bench.sizes import SIZES, Size
from panollava.io import write_json
from panollava.terminal import run, say

FAMILY = "mistral"
# Real vocabularies are larger, but the embedding has the real size, and texts of the world take few different words.
VOCABULARY, SCENES = 2000, 200
SPECIAL = {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}
SHARD = "4GB"
ENCODER, LLM = "encoder", "llm"


def write_checkpoints(size: Size, folder: Path) -> Parts:
    """Write a random encoder and a random language model below a folder; what is there already stays.

    Raises:
        ValueError: a folder there that is not empty and no checkpoint.
    """
    if not (folder / ENCODER / "config.json").is_file():
        _write_encoder(size, folder / ENCODER)
    if not (folder / LLM / "config.json").is_file():
        _write_llm(size, folder / LLM)
    return Parts(
        resolve(ENCODER, str(folder / ENCODER), feature_layer=-1),
        resolve(LLM, str(folder / LLM), chat_template=FAMILY),
    )


def _random(kind: type[PreTrainedModel], config: SiglipVisionConfig | MistralConfig, size: Size) -> PreTrainedModel:
    torch.manual_seed(0)
    with torch.device(size.device):
        return kind._from_config(config, dtype=size.dtype)


def _write_encoder(size: Size, folder: Path) -> None:
    config = SiglipVisionConfig(**size.vision)
    with new_checkpoint(folder) as out:
        _random(SiglipVisionModel, config, size).save_pretrained(out)
        side = {"height": config.image_size, "width": config.image_size}
        colours = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        write_json(
            out / "preprocessor_config.json", {"image_processor_type": "SiglipImageProcessor", "size": side, **colours}
        )


def _write_llm(size: Size, folder: Path) -> None:
    scenes = [describe_scene(0, index, text_share=1.0) for index in range(SCENES)]
    texts = [text for s in scenes for text in (s.text, *(part for d in s.dialogues for turn in d for part in turn))]
    tokenizer = train_tokenizer(texts, FAMILY, vocabulary=VOCABULARY)
    tokens = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL.items()}
    config = MistralConfig(**size.text | tokens, sliding_window=None)
    with new_checkpoint(folder) as out:
        _random(MistralForCausalLM, config, size).save_pretrained(out, max_shard_size=SHARD)
        tokenizer.save_pretrained(out)


def main() -> int:
    """Write the checkpoints of a size."""
    if len(sys.argv) != 3 or sys.argv[1] not in SIZES:
        raise ValueError(f"give a size ({', '.join(SIZES)}) and a folder")
    for backbone in (parts := write_checkpoints(SIZES[sys.argv[1]], Path(sys.argv[2]))).encoder, parts.llm:
        say(f"{backbone.source}: {backbone.fingerprint[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(run("random_checkpoints", main))
