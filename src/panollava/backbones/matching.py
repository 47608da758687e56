"""Whether LoRA weights belong to a model. Everything that differs is said at once, before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from panollava.backbones.adapter import ADAPTER, ADAPTER_WEIGHTS, differing_layers
from panollava.backbones.assemble import ModelSettings, Parts
from panollava.backbones.files import check_files, check_weights, load_weights
from panollava.backbones.trained import PARTS, TRAINED, check_trained, read_config, read_parts
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.vision import described

SHOWN = 5  # differences in a message


@dataclass(frozen=True)
class Origin:
    """What a model's weights are: those of two backbones, but for the parameters that were trained since."""

    parts: Parts
    trained: frozenset[str]


def trained_names(folder: Path) -> frozenset[str]:
    """Return the names of the parameters in a trained folder.

    Raises:
        ValueError: the file of them is missing or damaged.
    """
    check_weights(folder / TRAINED)
    with safe_open(folder / TRAINED, framework="pt") as file:
        return frozenset(file.keys())


def check_lora(model: PanoLlavaForConditionalGeneration, origin: Origin | None, folder: Path) -> None:
    """Refuse a folder that holds no LoRA weights, or weights for another model.

    Only a folder that names its backbones can be told from one of another model of the same shapes.

    Raises:
        ValueError: with what differs, or the file that is damaged.
    """
    check_trained(folder) if (folder / PARTS).is_file() else check_files(folder)
    for name in (ADAPTER, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: it is not a LoRA folder")
    problems = _differing_parts(origin, folder)
    if (folder / "config.json").is_file():
        problems += _differing_settings(model.config, read_config(folder))
    # Shapes that differ follow from the former, and say less.
    if problems := problems or differing_layers(model, folder):
        others = f"; and {len(problems) - SHOWN} more" if problems[SHOWN:] else ""
        raise ValueError(f"{folder} does not belong to this model: {'; '.join(problems[:SHOWN])}{others}")
    load_weights(folder / ADAPTER_WEIGHTS)


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
    text = config.text_config
    parts = {
        "vision_config": described(config.vision_config, config.view_pixels, config.vision_feature_layer),
        "text_config": f"{text.model_type}, {text.num_hidden_layers} layers of {text.hidden_size}",
    }
    others = {"image_token_id": config.image_token_id, "vision_feature_layer": config.vision_feature_layer}
    fields = ModelSettings.of(config).config_fields()
    return parts | others | fields.pop("views") | fields
