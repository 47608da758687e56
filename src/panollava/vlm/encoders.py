"""The families of image encoders that a PanoLLaVA can see with, and how each differs from the others.

A literal table, by the `model_type` of the image half. It imports nothing, so that a checkpoint can be refused by its
config.json alone, long before a model is built. `vision.py` reads encoders by it.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

TIMM = "timm_wrapper"


class Family(NamedTuple):
    """One family of image encoders.

    title: its name in documents and messages.
    prefix: tokens before the first patch; those with registers add `num_register_tokens`, None asks the output.
    registers: whether there are `num_register_tokens` more of them.
    grid: "patches", one width and one grid for all hidden states, or "stages", smaller and wider from stage to stage.
    size: where its config holds the size of an image; None where images may have any size.
    resizes: whether position codes fit views of another size: "always", "asked" (by `interpolate_pos_encoding`),
        "never".
    blocks: a pattern of the names of its blocks, the stage as first group; None for the longest list of modules.
    layers: which hidden states may be read: "any", or the "last" alone, where others are not in the image's order.
    composite: the `model_type` of the checkpoints that hold it beside a text encoder.
    inside: what these put before the names of its weights, where transformers does not know it.
    """

    title: str
    prefix: int | None = 0
    registers: bool = False
    grid: Literal["patches", "stages"] = "patches"
    size: Literal["image_size", "num_patches", "pretrained_cfg"] | None = "image_size"
    resizes: Literal["always", "asked", "never"] = "asked"
    blocks: str | None = None
    layers: Literal["any", "last"] = "any"
    composite: str | None = None
    inside: str | None = None


def _stages(title: str, blocks: str, size: Any = None, resizes: Any = "always", **more: Any) -> Family:
    return Family(title, grid="stages", size=size, resizes=resizes, blocks=blocks, **more)


# What stands before the names of an encoder's weights beside a text encoder, and below a language model, as in LLaVA.
OF_A_PAIR, OF_A_LLM = r"^vision_model\.", r"^(model\.)?vision_tower\.(vision_model\.)?"
STAGE_LAYERS = r"encoder\.stages\.(\d+)\.layers\.\d+"
FAMILIES = {
    "clip_vision_model": Family("CLIP", 1, composite="clip"),
    "siglip_vision_model": Family("SigLIP, SigLIP2 of fixed size", composite="siglip"),
    "siglip2_vision_model": Family("SigLIP2 NaFlex", size="num_patches", resizes="always", composite="siglip2"),
    "dinov2": Family("DINOv2", 1, resizes="always"),
    "dinov2_with_registers": Family("DINOv2 with registers", 1, registers=True, resizes="always"),
    "dinov3_vit": Family("DINOv3", 1, registers=True, resizes="always"),
    "vit": Family("ViT", 1),
    "deit": Family("DeiT", 2),
    "beit": Family("BEiT", 1),
    "vit_mae": Family("MAE", 1),
    "vit_msn": Family("MSN", 1),
    "ijepa": Family("I-JEPA"),
    "aimv2_vision_model": Family("AIMv2", resizes="never", composite="aimv2", inside=OF_A_PAIR),
    "mlcd_vision_model": Family("MLCD", 1, resizes="always"),
    "chinese_clip_vision_model": Family("Chinese-CLIP", 1, composite="chinese_clip"),
    "metaclip_2_vision_model": Family("MetaCLIP 2", 1, composite="metaclip_2"),
    "altclip_vision_model": Family("AltCLIP", 1, composite="altclip", inside=OF_A_PAIR),
    "internvl_vision": Family("InternViT", 1, resizes="always"),
    "tipsv2_vision_model": Family("TIPSv2", 1, registers=True, resizes="always", composite="tipsv2"),
    "swin": _stages("Swin", r"encoder\.layers\.(\d+)\.blocks\.\d+", "image_size", "asked"),
    "swinv2": _stages("Swin v2", r"encoder\.layers\.(\d+)\.blocks\.\d+", "image_size", "asked"),
    "hiera": _stages("Hiera", STAGE_LAYERS, "image_size", "never", layers="last"),
    "convnext": _stages("ConvNeXt", STAGE_LAYERS),
    "convnextv2": _stages("ConvNeXt v2", STAGE_LAYERS),
    "dinov3_convnext": _stages("DINOv3 ConvNeXt", r"model\.stages\.(\d+)\.layers\.\d+", prefix=1),
    "resnet": _stages("ResNet", STAGE_LAYERS),
    "regnet": _stages("RegNet", STAGE_LAYERS),
    "bit": _stages("BiT", STAGE_LAYERS),
    "efficientnet": _stages("EfficientNet", r"encoder\.blocks\.(\d+)"),
    TIMM: Family("timm", None, grid="stages", size="pretrained_cfg", resizes="always"),
}  # fmt: skip


def vision_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return the image half of a config.json, with its `model_type`."""
    kind = config.get("model_type")
    if isinstance(config.get("vision_config"), dict):
        inner = [name for name, family in FAMILIES.items() if kind is not None and family.composite == kind]
        return {"model_type": inner[0] if inner else None} | config["vision_config"]
    # What timm writes names an architecture instead.
    return {"model_type": TIMM} | config if kind is None and "pretrained_cfg" in config else config


def family_of(model_type: Any) -> Family:
    """Return the family of an image encoder.

    Raises:
        ValueError: the family is not one of `FAMILIES`.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"image encoder of type {model_type!r} is not supported; use one of "
            f"{', '.join(name for name in FAMILIES if name != TIMM)}, or a checkpoint of timm"
        )
    return FAMILIES[model_type]


def native_size(part: dict[str, Any]) -> int | None:
    """Return the size of the views that an encoder was built for; None where its config does not say.

    `part` is the image half of a config.json, or `to_dict()` of it.

    Raises:
        ValueError: images that are not square.
    """
    family = family_of(part.get("model_type"))
    if family.size is None or family.size not in part:
        return None
    value = part[family.size]
    if family.size == "num_patches":
        return round(value**0.5) * part.get("patch_size", 16)
    sides = value["input_size"][1:] if family.size == "pretrained_cfg" else value
    first, *others = sides if isinstance(sides, list | tuple) else [sides]
    if any(other != first for other in others):
        raise ValueError(f"a {family.title} for images of {sides} pixels is not supported; views are square")
    return int(first)


def check_views(part: dict[str, Any], view_size: int | None) -> None:
    """Refuse views of a size that an encoder cannot see.

    Raises:
        ValueError: with the family and the sizes that are right.
    """
    family, native = family_of(part.get("model_type")), native_size(part)
    fixed = family.resizes == "never" or bool(part.get("pretrained_cfg", {}).get("fixed_input_size"))
    if view_size is not None and native is not None and fixed and view_size != native:
        raise ValueError(
            f"this {family.title} sees images of {native} x {native} pixels only; leave view_size out, or give {native}"
        )
    patch = part.get("patch_size")
    patch = patch[0] if isinstance(patch, list | tuple) else patch
    if view_size is not None and family.grid == "patches" and patch and view_size % patch:
        near = max(view_size // patch, 1) * patch
        raise ValueError(
            f"view_size is {view_size}, but patches of this {family.title} have {patch} pixels; give {near} or "
            f"{near + patch}"
        )


def layers_of(feature_layer: int | Sequence[int]) -> list[int]:
    """Return the hidden states that are read, in order."""
    return [feature_layer] if isinstance(feature_layer, int) else list(feature_layer)


def check_layers(part: dict[str, Any], feature_layer: int | Sequence[int]) -> None:
    """Refuse feature layers that an encoder does not have, as far as its config says.

    Raises:
        ValueError: with the family and the layers that are right.
    """
    family, blocks = family_of(part.get("model_type")), part.get("num_hidden_layers")
    layers = layers_of(feature_layer)
    if not layers:
        raise ValueError("the list of feature layers is empty; give at least one, -1 for the last")
    for layer in layers:
        if family.layers == "last" and layer != -1:
            raise ValueError(
                f"feature layer {layer} of a {family.title} is not in the order of the image; only -1 can be read"
            )
        if family.grid == "patches" and blocks is not None and not -blocks - 1 <= layer <= blocks:
            raise ValueError(
                f"feature layer {layer} does not exist: this {family.title} has {blocks + 1} hidden states; give a "
                f"number from {-blocks - 1} to {blocks}"
            )
