"""Train the stand-in image encoders: small checkpoints in the CLIP, SigLIP and DINOv2 formats, pretrained on views.

CLIP and SigLIP learn from words, with their own losses (softmax and sigmoid): a view matches its caption, and a patch
matches the phrases for its object and that object's extent. DINOv2 learns without words, by self-distillation of the
class token and of masked patches (DINO and iBOT). Only the image half is kept, in the layout of a hub checkpoint.
"""

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
)

from panollava.backbones.standins.captioned_views import (
    PART_COLUMNS,
    PART_ROWS,
    Panoramas,
    Vocabulary,
    captions,
    cut_views,
    patch_phrases,
    random_poses,
    render_panoramas,
)
from panollava.corpus.world.scenes import COLOURS, SHAPES

IMAGE_SIZE, PATCH = 120, 10
GRID = IMAGE_SIZE // PATCH
SHAPE: dict[str, Any] = {
    "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": IMAGE_SIZE, "patch_size": PATCH,
}  # fmt: skip
VISION = SHAPE | {"intermediate_size": 384}
# CLIP's last layer is not used, so that four layers do the work in all families.
LAYERS = {"clip": 5, "siglip": 4}
TEXT: dict[str, Any] = {
    "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32,
}  # fmt: skip
SEEDS = {"clip": 201, "dinov2": 202, "siglip": 203}
# The layer whose patches the language model gets, as in the presets of params.yaml.
FEATURE_LAYER = {"clip": -2, "dinov2": -1, "siglip": -1}
MEAN, STD = 0.5, 0.25
BACKGROUND_WEIGHT = 0.1


class ContrastiveModel(nn.Module):
    """A CLIP or SigLIP model trained on (view, caption) and on (patch, phrase) pairs."""

    def __init__(self, family: str, words: int) -> None:
        super().__init__()
        self.family = family
        vision = VISION | {"num_hidden_layers": LAYERS[family]}
        if family == "clip":
            text = TEXT | {"vocab_size": words, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0}
            self.model: Any = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=96))
        else:
            text = TEXT | {"vocab_size": words, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 0}
            self.model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text))
            nn.init.constant_(self.model.logit_scale, math.log(10.0))
            nn.init.constant_(self.model.logit_bias, -10.0)
        # Phrases are many and similar, captions few: each pairing has its own temperature.
        self.patch_scales = nn.Parameter(torch.full((2,), math.log(10.0)))
        self.patch_biases = nn.Parameter(torch.full((2,), -6.0))

    def embed_text(self, ids: Tensor) -> Tensor:
        """Return unit text embeddings `[n, width]` of padded token ids `[n, L]`."""
        mask = (ids != 0).long()
        if self.family == "clip":
            pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
            return F.normalize(self.model.text_projection(pooled), dim=-1)
        return F.normalize(self.model.text_model(input_ids=ids).pooler_output, dim=-1)

    def embed_views(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit embeddings of views `[B, width]` and of their patches `[B, T, width]`."""
        out = self.model.vision_model(pixel_values=views, output_hidden_states=True)
        patches = out.hidden_states[FEATURE_LAYER[self.family]]
        if self.family == "clip":
            projection = self.model.visual_projection
            patches = projection(self.model.vision_model.post_layernorm(patches[:, 1:]))
            return F.normalize(projection(out.pooler_output), dim=-1), F.normalize(patches, dim=-1)
        return F.normalize(out.pooler_output, dim=-1), F.normalize(out.last_hidden_state, dim=-1)

    def loss(self, views: Tensor, caption: Tensor, pairings: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Return the sum of the caption loss and of the losses of (phrase, weight, table) pairings of the patches."""
        view, patches = self.embed_views(views)
        logits = self.model.logit_scale.exp() * view @ self.embed_text(caption).T
        if self.family == "clip":
            pairs = torch.arange(len(view), device=view.device)
            loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
        else:
            sign = 2 * torch.eye(len(view), device=view.device) - 1
            loss = -F.logsigmoid(sign * (logits + self.model.logit_bias)).sum(-1).mean()
        for number, (phrase, weight, table) in enumerate(pairings):
            scores = self.patch_scales[number].exp() * patches.flatten(0, 1) @ self.embed_text(table).T
            losses = self._phrase_loss(scores.float() + self.patch_biases[number], phrase.flatten())
            loss = loss + (weight.flatten() * losses).sum() / weight.sum()
        return loss

    def _phrase_loss(self, scores: Tensor, phrase: Tensor) -> Tensor:
        if self.family == "clip":
            return F.cross_entropy(scores, phrase, reduction="none")
        hit = F.one_hot(phrase, scores.shape[-1]).bool()
        return -F.logsigmoid(torch.where(hit, scores, -scores)).sum(-1)


class SelfDistillation(nn.Module):
    """DINOv2's objective: class tokens of two views (DINO) and masked patches (iBOT) against an averaged teacher."""

    def __init__(self, prototypes: int = 2048) -> None:
        super().__init__()
        config = Dinov2Config(**SHAPE, mlp_ratio=4)
        self.student = nn.ModuleDict(
            {"model": Dinov2Model(config), "dino": _head(prototypes), "ibot": _head(prototypes)}
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student."""
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new.detach(), 1 - momentum)

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the DINO, iBOT and KoLeo losses of two views of the same scenes, `[B, 3, S, S]` each."""
        views = torch.cat((first, second))
        masked = torch.rand(len(views), GRID * GRID, device=views.device) < 0.3 * torch.rand(
            len(views), 1, device=views.device
        ).mul(2)
        with torch.no_grad():
            targets = self.teacher["model"](pixel_values=views).last_hidden_state
            class_target = _sinkhorn(self.teacher["dino"](targets[:, 0]).float()).roll(len(first), 0)
            patch_target = _sinkhorn(self.teacher["ibot"](targets[:, 1:][masked]).float())
        hidden = self.student["model"](pixel_values=views, bool_masked_pos=masked).last_hidden_state
        dino = -(class_target * F.log_softmax(self.student["dino"](hidden[:, 0]).float() / 0.1, -1)).sum(-1).mean()
        ibot = -(patch_target * F.log_softmax(self.student["ibot"](hidden[:, 1:][masked]).float() / 0.1, -1)).sum(-1)
        return dino + ibot.mean() + 0.1 * _koleo(hidden[: len(first), 0].float())


def _head(prototypes: int) -> nn.Sequential:
    width = SHAPE["hidden_size"]
    last = nn.utils.parametrizations.weight_norm(nn.Linear(128, prototypes, bias=False))
    layers = nn.Sequential(nn.Linear(width, 512), nn.GELU(), nn.Linear(512, 128), _UnitLength())
    return nn.Sequential(*layers, last)


class _UnitLength(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


def _sinkhorn(logits: Tensor, temperature: float = 0.06, rounds: int = 3) -> Tensor:
    """Return teacher assignments that use all prototypes equally (Caron et al. 2020; DINOv2's centring)."""
    q = ((logits - logits.amax()) / temperature).exp()
    for _ in range(rounds):
        q = q / q.sum(0, keepdim=True).clamp_min(1e-12) / q.shape[1]
        q = q / q.sum(1, keepdim=True).clamp_min(1e-12)
    return q


def _koleo(tokens: Tensor) -> Tensor:
    unit = F.normalize(tokens, dim=-1)
    similarity = unit @ unit.T - 2 * torch.eye(len(unit), device=unit.device)
    return -torch.log((2 - 2 * similarity.amax(-1)).clamp_min(1e-6).sqrt()).mean()


def normalise(views: Tensor) -> Tensor:
    """Return views in [0, 1] with the mean and deviation of the encoders' own processor files."""
    return (views - MEAN) / STD


def _jitter(views: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.rand(3, len(views), 1, 1, 1, generator=generator, device=views.device)
    return ((views - 0.5) * (0.8 + 0.4 * u[0]) + 0.5 + 0.2 * (u[1] - 0.5)).clamp(0, 1)


def train_standin_encoder(
    family: str, folder: Path, *, steps: int, batch: int, panoramas: int, workers: int, device: str, rate: float = 1e-3
) -> None:
    """Train one stand-in encoder and write its folder with a card, which holds a linear probe of its patches."""
    torch.manual_seed(SEEDS[family])
    data = render_panoramas(SEEDS[family], panoramas, workers=workers).to(device)
    words = Vocabulary(data.surface_words)
    trained: Any = SelfDistillation() if family == "dinov2" else ContrastiveModel(family, len(words.ids))
    trained.to(device)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    generator = torch.Generator(device).manual_seed(SEEDS[family])
    tables = words.table.to(device), words.extent_table.to(device)
    losses = []
    for step in tqdm(range(steps), desc=f"{family} on views", mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = (
                rate * min(1, (step + 1) / min(300, steps // 10 + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
        which = torch.randint(len(data.images), (batch,), generator=generator, device=device)
        poses = random_poses(data, which, generator)
        views, labels = cut_views(data, which, poses, IMAGE_SIZE)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            if family == "dinov2":
                near = poses.clone()
                near[:, 0] += 0.15 * (torch.rand(batch, generator=generator, device=device) - 0.5)
                other, _ = cut_views(data, which, near, IMAGE_SIZE)
                loss = trained.loss(normalise(_jitter(views, generator)), normalise(_jitter(other, generator)))
            else:
                phrase, extent, is_object = patch_phrases(data, which, poses, labels, GRID)
                caption = captions(data, which, poses, labels, words)
                named = torch.where(is_object, 1.0, BACKGROUND_WEIGHT), is_object.float()
                pairings = list(zip((phrase, extent), named, tables, strict=True))
                loss = trained.loss(normalise(_jitter(views, generator)), caption, pairings)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if family == "dinov2":
            trained.update_teacher(1 - 0.008 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        losses.append(loss.detach())
    encoder = _encoder(family, trained)
    encoder.save_pretrained(folder)
    _write_processor(folder)
    card = {
        "name": family, "parameters": sum(p.numel() for p in encoder.parameters()), "seed": SEEDS[family],
        "objective": OBJECTIVES[family], "steps": steps, "views": steps * batch, "panoramas": panoramas,
        "final_loss": torch.stack(losses[-100:]).mean().item(),
        "linear_probe": probe(encoder.to(device), data, FEATURE_LAYER[family], generator, device),
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


OBJECTIVES = {
    "clip": "softmax contrastive: views with captions, patches with phrases for object, surface and extent",
    "siglip": "sigmoid contrastive: views with captions, patches with phrases for object, surface and extent",
    "dinov2": "self-distillation without words: DINO on class tokens, iBOT on masked patches, KoLeo",
}


def _encoder(family: str, trained: Any) -> Any:
    if family == "dinov2":
        return trained.teacher["model"]
    kind = CLIPVisionModel if family == "clip" else SiglipVisionModel
    encoder = kind(trained.model.config.vision_config)
    source = trained.model.vision_model.state_dict()
    target = encoder.state_dict()
    prefix = "vision_model." if "vision_model.post_layernorm.weight" in target else ""
    encoder.load_state_dict({f"{prefix}{name}": value for name, value in source.items()})
    return encoder


def _write_processor(folder: Path) -> None:
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def probe(
    encoder: Any, data: Panoramas, layer: int, generator: torch.Generator, device: str, views: int = 1500
) -> dict[str, float]:
    """Return the held-out accuracy of linear probes for colour and shape on the patches of objects.

    The probes are fitted on views of two thirds of the panoramas and scored on the others.
    """
    third = len(data.images) // 3
    split = {"fit": (third, len(data.images)), "score": (0, third)}
    features, targets = {}, {}
    for name, (low, high) in split.items():
        which = torch.randint(low, high, (views,), generator=generator, device=device)
        poses = random_poses(data, which, generator)
        pixels, labels = cut_views(data, which, poses, IMAGE_SIZE)
        phrase, _, is_object = patch_phrases(data, which, poses, labels, GRID)
        rows = [
            encoder(pixel_values=normalise(v), output_hidden_states=True).hidden_states[layer]
            for v in pixels.split(250)
        ]
        patches = torch.cat(rows)[:, -GRID * GRID :].view(views, GRID, GRID, -1)
        features[name] = F.layer_norm(patches[is_object], patches.shape[-1:])
        targets[name] = phrase[is_object] // (len(PART_ROWS) * len(PART_COLUMNS))
    result: dict[str, float] = {}
    for name, class_of, classes in (
        ("colour", lambda kind: kind // len(SHAPES), COLOURS),
        ("shape", lambda kind: kind % len(SHAPES), SHAPES),
    ):
        linear = _fit(features["fit"], class_of(targets["fit"]), len(classes))
        hit = linear(features["score"]).argmax(-1) == class_of(targets["score"])
        result |= {name: hit.float().mean().item(), f"{name}_chance": 1 / len(classes)}
    return result


def _fit(features: Tensor, targets: Tensor, classes: int) -> nn.Linear:
    linear = nn.Linear(features.shape[-1], classes).to(features.device)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(features), targets) + 1e-4 * linear.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return linear
