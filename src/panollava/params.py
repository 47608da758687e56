"""The typed, strict view of params.yaml. Only stages and the command line import it; the package takes plain values.

A stage names the parameters it reads twice, in dvc.yaml and in a model here; `read_params` refuses any difference, so
no stage can depend on a parameter that DVC does not know of.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import dvc.api
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator
from ruamel.yaml import YAML

from panollava.corpus.world.scenes import MAX_LATITUDE_DEG
from panollava.experiments.gate import Rule

Weights = Literal["standin", "hub"]
PARAMS_FILE = Path("params.yaml")


class Strict(BaseModel):
    """A section: unknown keys, missing keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EncoderPreset(Strict):
    """An image encoder: its hub id or folder, its stand-in, and which of its layers is read."""

    hub: str
    standin: str
    feature_layer: int


class LlmPreset(Strict):
    """A language model: its hub id or folder, its stand-in, and how its dialogues are written."""

    hub: str
    standin: str
    chat_template: Literal["llama", "vicuna", "mistral"]


class SplitSizes(Strict):
    """Panoramas in each split."""

    train: PositiveInt
    validation: PositiveInt
    test: PositiveInt


class SplitShares(Strict):
    """Parts of each split, relative to their sum."""

    train: float = Field(gt=0)
    validation: float = Field(gt=0)
    test: float = Field(gt=0)


class World(Strict):
    """The synthetic world."""

    panoramas: SplitSizes
    korean_share: float = Field(ge=0, le=1)
    min_latitude_deg: float = Field(ge=0, le=MAX_LATITUDE_DEG)


class Dataset(Strict):
    """Where the panoramas come from."""

    source: Literal["world", "records"]
    path: str
    shares: SplitShares
    allow_any_aspect: bool
    world: World


class Preprocess(Strict):
    """The working resolution of the store."""

    image_height: PositiveInt
    jpeg_quality: int = Field(ge=1, le=100)


class Model(Strict):
    """Everything of the model but its backbones."""

    dtype: Literal["float32", "bfloat16"]
    compute: Literal["float32", "bfloat16"]
    view_strategy: str
    fov_deg: float
    stride_deg: float
    pitches_deg: list[float] = Field(min_length=1)
    roll_deg: float
    token_budget: PositiveInt | None
    panorama_height: PositiveInt | None
    tokens_per_side: PositiveInt
    token_reduction: Literal["none", "unique"]
    resampler: Literal["mlp", "pooling", "perceiver", "c_abstractor"]
    resampler_hidden_size: PositiveInt
    resampler_layers: PositiveInt
    position_code: Literal["none", "yaw", "ray"]
    position_frequencies: PositiveInt
    mask_hidden_size: PositiveInt


class Training(Strict):
    """What all training stages share."""

    steps: PositiveInt
    batch_size: PositiveInt
    accumulation: PositiveInt
    learning_rate: dict[str, float]
    warmup: float = Field(ge=0, lt=1)
    schedule: Literal["cosine", "constant_with_warmup"]
    save_steps: PositiveInt
    workers: int = Field(ge=0)
    activation_checkpointing: bool


class TrainVision(Training):
    """The overlap loss."""

    pairing: Literal["exact", "strip", "none"]
    loss: Literal["vicreg", "vicreg_batchwise", "densecl"]
    encoder_blocks: PositiveInt


class Augment(Strict):
    """How panoramas are turned in training."""

    yaw_steps: PositiveInt
    tilt_deg: float = Field(ge=0, le=30)


class TrainResampler(Training):
    """The resampler against the frozen language model."""

    records_per_panorama: PositiveInt
    compile: bool
    load_in_4bit: bool
    augmentation: Augment


class Lora(Strict):
    """The adapters of the language model."""

    rank: PositiveInt
    alpha: PositiveInt
    dropout: float = Field(ge=0, lt=1)
    targets: list[str] = Field(min_length=1)


class FinetuneLora(TrainResampler):
    """Adapters, resampler and mask head together."""

    mask_weight: float = Field(ge=0)
    lora: Lora
    save_lora_only: bool


class Evaluate(Strict):
    """How the test split is answered and scored."""

    batch_size: PositiveInt
    shuffled: PositiveInt
    resamples: PositiveInt


FiniteDegrees = Annotated[float, Field(allow_inf_nan=False)]


class Robustness(Strict):
    """Which panoramas are turned, how, and how their answers are scored."""

    panoramas: PositiveInt
    rolls_deg: list[FiniteDegrees] = Field(min_length=2)
    tilts_deg: list[Annotated[float, Field(gt=-90, lt=90)]] = Field(min_length=1)
    seam_pairs: PositiveInt
    batch_size: PositiveInt
    resamples: PositiveInt

    @field_validator("rolls_deg", "tilts_deg")
    @classmethod
    def _turns_differ(cls, angles: list[float]) -> list[float]:
        # The panorama as it is has been answered already.
        if len({angle % 360 for angle in (0, *angles)}) <= len(angles):
            raise ValueError("each angle must be a turn of its own, and none may be a whole turn or zero")
        return angles


class Visualise(Strict):
    """How many samples the figures show."""

    samples: PositiveInt


class Params(Strict):
    """The whole of params.yaml."""

    seed: int
    weights: Weights
    encoder: str
    llm: str
    encoders: dict[str, EncoderPreset]
    llms: dict[str, LlmPreset]
    dataset: Dataset
    preprocess: dict[Weights, Preprocess]
    model: dict[Weights, Model]
    train_vision: dict[Weights, TrainVision]
    train_resampler: dict[Weights, TrainResampler]
    finetune_lora: dict[Weights, FinetuneLora]
    evaluate: Evaluate
    robustness: Robustness
    visualise: Visualise
    gate: dict[str, Rule]


class ParamsError(ValueError):
    """params.yaml is not what it should be; the message lists every place."""


View = TypeVar("View", bound=BaseModel)


def _validated(model: type[View], values: Any, source: str) -> View:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc'])} = {e['input']!r}: {e['msg']}" for e in error.errors()]
        raise ParamsError(f"{source}:\n" + "\n".join(lines)) from None


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Return the whole file, validated.

    Raises:
        ParamsError: unknown or missing keys, wrong types or values, each with its dotted path; unknown presets.
    """
    params = _validated(Params, YAML(typ="safe").load(path.read_text(encoding="utf-8")), str(path))
    for kind, name, presets in (("encoder", params.encoder, params.encoders), ("llm", params.llm, params.llms)):
        if name not in presets:
            raise ParamsError(f"{path}: {kind} = {name!r} is no preset; {kind}s has {', '.join(presets)}")
    return params


def read_params(model: type[View], *, stage: str) -> View:
    """Return what dvc.yaml declares for `stage`, which must be exactly what `model` asks for.

    The whole file is validated first, so that a slip in a later stage's section stops the first one.

    Raises:
        ParamsError: as `load_params`, and for a difference between dvc.yaml and `model`.
    """
    load_params()
    return _validated(model, dvc.api.params_show(stages=[stage]), f"params of stage {stage} in dvc.yaml")
