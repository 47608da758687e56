"""The typed, strict view of params.yaml and launch.yaml, for stages, experiments and the command line alone.

A stage names its parameters twice, in dvc.yaml and in a model here. `read_params` refuses any difference, so no stage
depends on a parameter that DVC does not know. Nothing depends on launch.yaml: its settings change no result.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import dvc.api
from dvc.exceptions import DvcException
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from panollava.corpus.world.scenes import MAX_LATITUDE_DEG
from panollava.vlm.views import ViewSettings
from panollava.yaml_files import ParamsError, problems_of, read_yaml

Weights = Literal["standin", "hub"]
PARAMS_FILE, LAUNCH_FILE = Path("params.yaml"), Path("launch.yaml")
# Keys of earlier versions, * for any one part, and where their setting is now.
MOVED = {
    "*.*.workers": "now workers in launch.yaml",
    "*.*.save_steps": "now save_steps in launch.yaml",
    "*.*.activation_checkpointing": "now activation_checkpointing in launch.yaml",
    "*.*.compile": "now compile in launch.yaml",
    "*.*.augmentation.rolls": "now augmentation.yaw_steps",
    "robustness.rolls_deg": "now robustness.yaws_deg",
    "model.*.view_strategy": "now views.strategy in the same section",
    "model.*.fov_deg": "now views.fov_deg in the same section",
    "model.*.stride_deg": "now views.stride_deg in the same section",
    "model.*.pitches_deg": "now views.pitches_deg in the same section",
    "model.*.roll_deg": "now views.roll_deg in the same section",
    "model.*.token_budget": "now views.token_budget in the same section",
    "model.*.panorama_height": "now views.panorama_height in the same section",
    "model.*.token_reduction": "removed: each view keeps all of its tokens",
}
MOVED_DEPTH = max(pattern.count(".") + 1 for pattern in MOVED)


class Strict(BaseModel):
    """A section: unknown keys, missing keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class EncoderPreset(Strict):
    """An image encoder: its hub id or folder, its stand-in, which of its layers are read, and the size of its views."""

    hub: str
    standin: str
    feature_layer: int | Annotated[list[int], Field(min_length=1)]
    view_size: PositiveInt | None = None


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
    path: str = Field(min_length=1)
    shares: SplitShares
    allow_any_aspect: bool
    world: World


class Preprocess(Strict):
    """The working resolution of the store."""

    image_height: PositiveInt
    jpeg_quality: int = Field(ge=1, le=100)


# The fields of `ViewSettings` without their defaults: params.yaml names each of them.
_VIEW_FIELDS: dict[str, Any] = {name: (hint, ...) for name, hint in get_type_hints(ViewSettings).items()}
_EveryView = create_model("_EveryView", __base__=Strict, **_VIEW_FIELDS)


def _view_settings(values: Any) -> ViewSettings:
    """Return the view settings of a section of params.yaml, whose list of pitches is a tuple here."""
    if isinstance(values, ViewSettings):
        return values
    if isinstance(values, dict) and isinstance(values.get("pitches_deg"), list):
        values = values | {"pitches_deg": tuple(values["pitches_deg"])}
    return ViewSettings(**_EveryView.model_validate(values).model_dump())


class Model(Strict):
    """Everything of the model but its backbones."""

    dtype: Literal["float32", "bfloat16"]
    compute: Literal["float32", "bfloat16"]
    views: Annotated[ViewSettings, BeforeValidator(_view_settings)]
    tokens_per_side: PositiveInt
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
    learning_rate: dict[str, Annotated[float, Field(ge=0)]]
    warmup: float = Field(ge=0, lt=1)
    schedule: Literal["cosine", "constant_with_warmup"]


class TrainVision(Training):
    """The overlap loss."""

    pairing: Literal["exact", "strip", "none"]
    loss: Literal["vicreg", "vicreg_batchwise", "densecl"]
    encoder_blocks: PositiveInt


class Augment(Strict):
    """How panoramas are rotated in training."""

    yaw_steps: PositiveInt
    tilt_deg: float = Field(ge=0, le=30)


class TrainResampler(Training):
    """The resampler against the frozen language model."""

    records_per_panorama: PositiveInt
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


class Robustness(Strict):
    """Which panoramas are rotated, how, and how their answers are scored."""

    panoramas: PositiveInt
    yaws_deg: list[float] = Field(min_length=2)
    tilts_deg: list[Annotated[float, Field(gt=-90, lt=90)]] = Field(min_length=1)
    seam_pairs: PositiveInt
    batch_size: PositiveInt
    resamples: PositiveInt

    @field_validator("yaws_deg", "tilts_deg")
    @classmethod
    def _rotations_differ(cls, angles: list[float]) -> list[float]:
        # The stage evaluate has answered the panorama as it is.
        if len({angle % 360 for angle in (0, *angles)}) <= len(angles):
            raise ValueError("the angles must differ from each other and from 0, modulo 360")
        return angles


class Visualise(Strict):
    """How many samples the figures show."""

    samples: PositiveInt


class Rule(BaseModel):
    """How much worse one metric may get: `max(abs, rel * |base|)`, or not at all by a test of level `paired`.

    A test draws 10,000 exchanges, so its p value is at least 0.0001; a level must lie well above.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    better: Literal["higher", "lower"]
    abs: float = Field(default=0.0, ge=0)
    rel: float = Field(default=0.0, ge=0)
    paired: float | None = Field(default=None, ge=0.001, le=0.5)

    @model_validator(mode="after")
    def _one_kind(self) -> "Rule":
        if self.paired is not None and (self.abs or self.rel):
            raise ValueError("`paired` takes the place of `abs` and `rel`; give the one or the others")
        return self


class Params(Strict):
    """The whole of params.yaml."""

    seed: int = Field(ge=0, lt=2**32)  # NumPy takes no other
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


class Launch(Strict):
    """How training runs on a machine; none of these settings changes a result."""

    workers: int = Field(ge=0)
    save_steps: PositiveInt
    activation_checkpointing: bool
    compile: bool


class LaunchFile(Strict):
    """The whole of launch.yaml."""

    standin: Launch
    hub: Launch


View = TypeVar("View", bound=BaseModel)


def _validated(model: type[View], values: Any, source: str) -> View:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ParamsError(f"{source}:\n" + "\n".join(problems_of(error))) from None


def _moved(tree: Mapping[str, Any], parents: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a line for each key of a tree that an earlier version had elsewhere."""
    for key, value in tree.items():
        path = (*parents, str(key))
        for pattern, where in MOVED.items():
            parts = pattern.split(".")
            if len(parts) == len(path) and all(map(fnmatchcase, path, parts)):
                yield f"  {'.'.join(path)}: {where}"
        if isinstance(value, dict) and len(path) < MOVED_DEPTH:
            yield from _moved(value, path)


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Return the whole of params.yaml, validated.

    Raises:
        ParamsError: no YAML file; keys of an earlier version, all of them; unknown or missing keys, wrong types or
            values, each with its dotted path; unknown presets.
    """
    values = read_yaml(path)
    if moved := list(_moved(values)):
        raise ParamsError(f"{path} has settings of an earlier version; move or remove each:\n" + "\n".join(moved))
    params = _validated(Params, values, str(path))
    for kind, name, presets in (("encoder", params.encoder, params.encoders), ("llm", params.llm, params.llms)):
        if name not in presets:
            raise ParamsError(f"{path}: {kind} = {name!r} is no preset; {kind}s has {', '.join(presets)}")
    return params


def read_params(model: type[View], *, stage: str) -> View:
    """Return the parameters that dvc.yaml declares for `stage`, which must be exactly those of `model`.

    The whole file is validated first, so a slip in a later stage's section stops the first stage.

    Raises:
        ParamsError: as `load_params`, and for a difference between dvc.yaml and `model`.
    """
    load_params()
    try:
        declared = dvc.api.params_show(stages=[stage])
    except DvcException as error:
        raise ParamsError(f"dvc.yaml, stage {stage}: {error}") from error
    return _validated(model, declared, f"params of stage {stage} in dvc.yaml")


def read_launch(weights: Weights, path: Path = LAUNCH_FILE) -> Launch:
    """Return the launch settings for `weights`.

    Raises:
        ParamsError: unknown or missing keys, wrong types or values, each with its dotted path.
    """
    launch = _validated(LaunchFile, read_yaml(path), str(path))
    return launch.standin if weights == "standin" else launch.hub
