"""Tiny trained folders, as the training stages write them, tiny models at work, and a tiny dataset of panoramas."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from PIL import Image
from tiny_backbones import MODEL
from torch import Tensor, nn

from panollava.attention.cuda_graphs import GraphCache, GraphedFunction
from panollava.backbones.assemble import Parts, assemble
from panollava.backbones.files import new_checkpoint
from panollava.backbones.trained import trained_state, write_parts, write_trained
from panollava.inference.prefill import prefill
from panollava.inference.prompts import Prefix
from panollava.training.lora import lora_config
from panollava.vlm.views import view_poses

LORA = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "up_proj"]}


def lively(model: nn.Module) -> None:
    """Scale a random model up until it says different things to different prompts."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "vision_tower" not in name:
                weight.mul_(10)


def noting(graphs: list[int]) -> Callable:
    """Return a compiler that notes each graph, by the number of its inputs, and runs it as it is."""

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        graphs.append(len(inputs))
        return graph.forward

    return backend


def replay_on_cpu(cache: GraphCache, function: Callable, *given: torch.Tensor) -> Any:
    """Do what `GraphCache.replay` does on a GPU, but for the graphs."""
    shape = function, tuple(each.shape for each in given)
    return cache.entry(shape, lambda: GraphedFunction(function, given), 2**30)(cache.model, given)


@torch.inference_mode()
def prefix_of(graphs: GraphCache, panoramas: int, *, compiled: bool = False) -> Prefix:
    """Return the prefix of random views, on the model's device."""
    model: Any = graphs.model
    size, config = model.config.vision_config.image_size, model.config
    poses = view_poses(config.view_settings).to(model.device)
    pixels = torch.randn(panoramas, len(poses), 3, size, size).to(model.device)
    return prefill(graphs, [7], pixels, poses.expand(panoramas, -1, -1), compiled=compiled)


def write_resampler_folder(parts: Parts, folder: Path, *, lora: Path | None = None, **changes: Any) -> Path:
    """Write what train_resampler writes, and with `lora` what finetune_lora writes on top of the same weights."""
    torch.manual_seed(0)
    model, processor = assemble(parts, replace(MODEL, **changes), dtype=torch.float32)
    names = {name for name, _ in model.named_parameters() if ".resampler." in name or name.startswith("mask_head.")}

    def write(out: Path, adapted: Any = None) -> None:
        with new_checkpoint(out, replace=True) as new:
            write_trained(trained_state(model, names), new)
            write_parts(parts, new)
            model.config.save_pretrained(new)
            processor.save_pretrained(new)
            if adapted is not None:
                adapted.save_pretrained(str(new))

    write(folder)
    if lora is not None:
        with torch.no_grad():  # finetuning trains the resampler further
            model.model.resampler.projection.contract.weight.mul_(1.5)
        adapted = get_peft_model(model, lora_config(**LORA))
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if ".lora_" in name:
                    weight.normal_(std=0.3)
        write(lora, adapted)
    return folder


def write_images(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    """Write noise panoramas of 128 x 64 pixels; another seed gives other ones."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    files = [folder / f"{seed}_{index}.png" for index in range(count)]
    for file in files:
        Image.fromarray(generator.integers(0, 256, (64, 128, 3), dtype=np.uint8)).save(file)
    return files


def write_dataset(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Write a folder with `count` panoramas and a record file with three records of each."""
    files = write_images(folder, count, seed=seed)
    turns = [("what is there?", "a red cube"), ("어디에 있나요?", "왼쪽에 있습니다"), ("is there a ball?", "no")]
    records = [
        {"image_id": file.stem, "image_path": file.name, "conversations": [{"human": human, "assistant": assistant}]}
        for human, assistant in turns
        for file in files
    ]
    (folder / "annotations.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return folder


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's parameters and buffers on the CPU, whatever device it is on."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
