"""Both sides with the same random weights: PanoLLaVA, and Hugging Face's LLaVA with the views as its images.

The backbones' parameters are the same tensors in both, so a 7B pair takes the memory of one model. What trains (LoRA,
and what stands between the halves) each side has for itself, equal at the start.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from panollava.bench.sizes import Size
from panollava.training.fit import RESAMPLER
from panollava.training.language_stages import LORA
from panollava.training.lora import lora_config
from panollava.training.trainer import set_trainable
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.resampler import Resampler
from panollava.vlm.views import view_poses

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROJECTOR = "multi_modal_projector."
SEED = 0


class ViewProjector(nn.Module):
    """A projector of LLaVA that does what our resampler does; V images in a row are the views of one panorama."""

    poses: Tensor

    def __init__(self, resampler: Resampler, poses: Tensor) -> None:
        super().__init__()
        self.resampler = resampler
        self.register_buffer("poses", poses, persistent=False)

    def forward(self, image_features: Tensor) -> Tensor:
        """Return language tokens `[P, N, D]` of patches `[P V, h w, C]`."""
        side = math.isqrt(image_features.shape[1])
        grids = image_features.unflatten(1, (side, side)).unflatten(0, (-1, len(self.poses)))
        return self.resampler(grids, self.poses.expand(len(grids), -1, -1))


@dataclass(frozen=True)
class Pair:
    """The two models, and a panorama: its views `[1, V, 3, S, S]`, their poses `[1, V, 6]`, its visual tokens."""

    ours: PanoLlavaForConditionalGeneration
    peer: LlavaForConditionalGeneration
    pixel_values: Tensor
    view_poses: Tensor
    visual_tokens: int

    @property
    def prefix(self) -> list[int]:
        """Return the placeholders of the panorama."""
        return [self.ours.config.image_token_id] * self.visual_tokens

    def images(self, count: int) -> Tensor:
        """Return the panorama `count` times as LLaVA takes it, `[count V, 3, S, S]`."""
        return self.pixel_values.expand(count, -1, -1, -1, -1).flatten(0, 1)


def twin(module: Any) -> Any:
    """Return a copy of a module, configuration included, that shares its parameters."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


def build_pair(size: Size) -> Pair:
    """Return both sides of a size in evaluation mode, and a random panorama.

    Raises:
        ValueError: the size needs a GPU, and there is none.
    """
    if size.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"size {size.name} needs a GPU with 80 GB, and PyTorch sees none; --size tiny needs none")
    torch.manual_seed(SEED)
    config = size.config()
    poses = view_poses(config.view_settings).to(size.device)
    with torch.device(size.device):
        ours = PanoLlavaForConditionalGeneration._from_config(config, dtype=size.dtype).eval()
        pixels = torch.randn(1, len(poses), 3, config.view_pixels, config.view_pixels)
    peer = build_peer(ours, poses).eval()
    for model in (ours, peer):
        model.generation_config.eos_token_id = None  # answers of equal length
        model.generation_config.pad_token_id = 0
    return Pair(ours, peer, pixels, poses[None], len(poses) * config.tokens_per_side**2)


def build_peer(ours: PanoLlavaForConditionalGeneration, poses: Tensor) -> LlavaForConditionalGeneration:
    """Return the LLaVA that computes what `ours` computes of panoramas seen at `poses` `[V, 6]`."""
    vision, language = twin(ours.model.vision_tower), twin(ours.model.language_model)
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_index=ours.config.image_token_id,
        vision_feature_layer=ours.config.vision_feature_layer,
        vision_feature_select_strategy="full",  # SigLIP has no class token
    )
    with torch.device("meta"):
        peer = LlavaForConditionalGeneration(config)
    peer.model.vision_tower, peer.model.language_model = vision, language
    projector: Any = ViewProjector(copy.deepcopy(ours.model.resampler), poses)
    peer.model.multi_modal_projector, peer.lm_head = projector, twin(ours.lm_head)
    peer.set_attn_implementation("sdpa")
    return peer


def adapt(pair: Pair, size: Size) -> tuple[PeftModel, PeftModel]:
    """Return both models with the same LoRA, ours as finetuning sets it up: adapters and what joins the halves train.

    LoRA's second factors are random, not zero as in PEFT, for else the first ones would have no gradient to compare.
    """
    rank, alpha = size.lora["rank"], size.lora["alpha"]
    settings = lora_config(rank=rank, alpha=alpha, dropout=0.0, targets=LINEARS)
    plain = LoraConfig(r=rank, lora_alpha=alpha, target_modules=settings.target_modules, bias="none")
    models: list[Any] = [pair.ours, pair.peer]
    ours, peer = (get_peft_model(model, lora) for model, lora in zip(models, (settings, plain), strict=True))
    set_trainable(ours, [RESAMPLER, LORA])
    set_trainable(peer, [PROJECTOR, LORA])
    theirs = dict(peer.named_parameters())
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            if LORA in name:
                if ".lora_B." in name:
                    weight.normal_(std=0.02)
                theirs[name].copy_(weight)
    return ours.train(), peer.train()
