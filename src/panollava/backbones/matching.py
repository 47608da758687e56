"""Whether a folder is what it should be for a model: a full checkpoint, or LoRA weights that belong to it.

Everything that differs is said at once, before anything is loaded.
"""

from dataclasses import dataclass
from pathlib import Path

from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig

from panollava.backbones.assemble import ModelSettings, Parts
from panollava.backbones.loading import NO_CODE, without_code
from panollava.backbones.trained import ADAPTER, PARTS, TRAINED, read_parts
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# What PEFT puts before the names of the model that it wraps.
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Origin:
    """What a model's weights are: those of two backbones, but for the parameters that were trained since."""

    parts: Parts
    trained: frozenset[str]


def trained_names(folder: Path) -> frozenset[str]:
    """Return the names of the parameters in a trained folder."""
    with safe_open(folder / TRAINED, framework="pt") as file:
        return frozenset(file.keys())


def check_checkpoint(path: str | Path) -> None:
    """Refuse what is not a full checkpoint of PanoLLaVA, a folder or a hub id.

    Raises:
        ValueError: with what it is instead.
    """
    folder = Path(path)
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"{path} holds LoRA weights without {PARTS}, which would name the model below them; open that model first, "
            "then call load_lora_weights"
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"{path} has no config.json; it must be a checkpoint's folder or that of a finished stage")
    try:
        with without_code(path):
            config = AutoConfig.from_pretrained(path, **NO_CODE)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is neither a folder nor a checkpoint available from the hub: {reason}") from error
    if not isinstance(config, PanoLlavaConfig):
        raise ValueError(f"{path} is a checkpoint of {config.model_type!r}, not of {PanoLlavaConfig.model_type!r}")


def check_lora(model: PanoLlavaForConditionalGeneration, origin: Origin | None, folder: Path) -> None:
    """Refuse a folder that holds no LoRA weights, or weights for another model.

    Only a folder that names its backbones can be told from one of another model of the same shapes.

    Raises:
        ValueError: with what differs.
    """
    for name in (ADAPTER, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: it is not a LoRA folder")
    problems = _differing_parts(origin, folder)
    if (folder / "config.json").is_file():
        problems += _differing_settings(model.config, PanoLlavaConfig.from_pretrained(folder))
    # Shapes that differ follow from the former, and say less.
    if problems := problems or _differing_layers(model, folder):
        raise ValueError(f"{folder} does not belong to this model:\n" + "\n".join(f"  {line}" for line in problems))


def _differing_parts(origin: Origin | None, folder: Path) -> list[str]:
    if not (folder / PARTS).is_file():
        return []
    wanted = read_parts(folder)
    if origin is None:
        return [
            f"it was trained on {wanted.llm.name} ({wanted.llm.source}) with its own weights, but this is a full "
            "checkpoint, or a model with LoRA weights merged; open the LoRA folder itself with from_pretrained"
        ]
    pairs = {"encoder": (wanted.encoder, origin.parts.encoder), "language model": (wanted.llm, origin.parts.llm)}
    return [
        f"{kind}: trained on {theirs.name} ({theirs.source}, {theirs.fingerprint[:12]}), "
        f"this is {ours.name} ({ours.source}, {ours.fingerprint[:12]})"
        for kind, (theirs, ours) in pairs.items()
        if theirs.fingerprint != ours.fingerprint
    ]


def _differing_settings(ours: PanoLlavaConfig, theirs: PanoLlavaConfig) -> list[str]:
    pairs = zip(_settings(theirs).items(), _settings(ours).values(), strict=True)
    return [f"{name}: {there!r} there, {here!r} here" for (name, there), here in pairs if there != here]


def _settings(config: PanoLlavaConfig) -> dict[str, object]:
    """Return the fields that a LoRA folder and its model share; of the two backbones, their families and sizes."""
    described = {
        name: f"{part.model_type}, {part.num_hidden_layers} layers of {part.hidden_size}"
        for name, part in (("vision_config", config.vision_config), ("text_config", config.text_config))
    }
    others = {"image_token_id": config.image_token_id, "vision_feature_layer": config.vision_feature_layer}
    fields = ModelSettings.of(config).config_fields()
    return described | others | fields.pop("views") | fields


def _differing_layers(model: nn.Module, folder: Path) -> list[str]:
    """Return where the shapes of LoRA weights `A` `[r, in]` and `B` `[out, r]` are not those of the model's layers."""
    config = PeftConfig.from_pretrained(str(folder))
    shapes = {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    problems, found = [], set()
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 # not a mapping
            name, _, half = key.removeprefix(PEFT_PREFIX).partition(".lora_")
            rows, columns = file.get_slice(key).get_shape()
            found.add(name)
            if name not in shapes:
                problems.append(f"{name}: the model has no such layer")
            elif half.startswith("A") and columns != shapes[name][1]:
                problems.append(f"{name}: {columns} inputs there, {shapes[name][1]} here")
            elif half.startswith("B") and rows != shapes[name][0]:
                problems.append(f"{name}: {rows} outputs there, {shapes[name][0]} here")
    targets = {name for name in shapes if check_target_module_exists(config, name)}
    return problems + [f"{name}: no weights for this layer" for name in sorted(targets - found)]
