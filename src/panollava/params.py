"""The typed, strict view of params.yaml and launch.yaml, for stages, experiments and the command line alone.

A stage names its parameters twice, in dvc.yaml and in a model here. `read_params` refuses any difference, so no stage
depends on a parameter that DVC does not know. Nothing depends on launch.yaml: its settings change no result.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_type_hints

import dvc.api
from dvc.exceptions import DvcException
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PlainValidator,
    PositiveInt,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from panollava.backbones.templates import CHOICES, OWN, is_choice
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
    chat_template: str = OWN

    @field_validator("chat_template")
    @classmethod
    def _known_template(cls, value: str) -> str:
        if not is_choice(value):
            raise ValueError(f"{value!r} is no chat template; it may be {CHOICES}")
        return value


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


Rate = Annotated[float, Field(ge=0)]


class VisionRates(Strict):
    """The learning rates of train_vision."""

    vision_tower: Rate
    resampler: Rate


class ResamplerRates(Strict):
    """The learning rate of train_resampler."""

    resampler: Rate


class FinetuneRates(Strict):
    """The learning rates of finetune_lora: of adapters, or of the language model where it trains itself."""

    resampler: Rate
    lora: Rate
    language_model: Rate
    mask_head: Rate


class Training(Strict):
    """What all training stages share."""

    steps: PositiveInt | None
    epochs: Annotated[float, Field(gt=0)] | None
    batch_size: PositiveInt
    accumulation: PositiveInt
    warmup: float = Field(ge=0)
    schedule: Literal["cosine", "constant_with_warmup"]
    validate_every: PositiveInt | None
    keep: Literal["last", "best"]
    patience: PositiveInt | None

    @field_validator("warmup", mode="before")
    @classmethod
    def _share_or_steps(cls, warmup: Any) -> Any:
        if isinstance(warmup, float) and warmup >= 1:
            raise ValueError("a share of the steps is below 1, a number of steps has no decimal point")
        return warmup

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"give one of steps and epochs, the other is null; here steps = {self.steps}, epochs = {self.epochs}"
            )
        if self.steps is not None and self.warmup >= max(self.steps, 1):
            raise ValueError(f"warmup = {self.warmup:g} steps, but steps = {self.steps}; warm up for fewer")
        for name, asked in (("keep: best", self.keep == "best"), ("patience", self.patience is not None)):
            if asked and self.validate_every is None:
                raise ValueError(f"{name} needs a validation loss; set validate_every to a number of steps")
        return self


class TrainVision(Training):
    """The overlap loss."""

    learning_rate: VisionRates
    pairing: Literal["exact", "strip", "none"]
    loss: Literal["vicreg", "vicreg_batchwise", "densecl"]
    encoder_blocks: NonNegativeInt


class Augment(Strict):
    """How panoramas are rotated in training."""

    yaw_steps: PositiveInt
    tilt_deg: float = Field(ge=0, le=30)


class DialogueTraining(Training):
    """What the stages with a language model share."""

    records_per_panorama: PositiveInt
    load_in_4bit: bool
    augmentation: Augment


class TrainResampler(DialogueTraining):
    """The resampler against the frozen language model."""

    learning_rate: ResamplerRates


def _lora_targets(value: Any) -> Any:
    if value == "all" or (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
        return value
    raise ValueError("expected a list of names of layers, or all")


class Lora(Strict):
    """The adapters of the language model."""

    rank: PositiveInt
    alpha: PositiveInt
    dropout: float = Field(ge=0, lt=1)
    targets: Annotated[list[str] | Literal["all"], PlainValidator(_lora_targets)]


class TextChatShare(Strict):
    """Dialogues about no panorama, a share of all; the hash of their file stands here, so a run belongs to it."""

    path: str = Field(min_length=1)
    share: float = Field(ge=0, le=0.9)
    sha256: str = Field(pattern="^[0-9a-f]{12,64}$")


class FinetuneLora(DialogueTraining):
    """Adapters, or the language model itself, with the resampler and the mask head."""

    learning_rate: FinetuneRates
    text_chat: TextChatShare | None
    mask_weight: float = Field(ge=0)
    lora: Lora | None
    freeze_layers: NonNegativeInt
    save_lora_only: bool

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.lora is None and self.load_in_4bit:
            raise ValueError("lora: null trains the language model, and weights of 4 bits cannot; one of both is wrong")
        return self


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


# Those of `training.trackers.TRACKERS`; a test compares them.
Tracker = Literal["tensorboard", "wandb", "trackio", "dvclive"]


class Launch(Strict):
    """How training runs on a machine; none of these settings changes a result."""

    workers: int = Field(ge=0)
    save_steps: PositiveInt
    activation_checkpointing: bool
    compile: bool
    report_to: Annotated[list[Tracker], BeforeValidator(lambda value: [] if value in ("none", ["none"]) else value)]


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
    return parse_params(read_yaml(path), str(path))


def parse_params(values: Mapping[str, Any], source: str) -> Params:
    """Return the content of a params.yaml, validated; `source` names it in messages.

    Raises:
        ParamsError: as `load_params`.
    """
    if moved := list(_moved(values)):
        raise ParamsError(f"{source} has settings of an earlier version; move or remove each:\n" + "\n".join(moved))
    params = _validated(Params, values, source)
    for kind, name, presets in (("encoder", params.encoder, params.encoders), ("llm", params.llm, params.llms)):
        if name not in presets:
            raise ParamsError(f"{source}: {kind} = {name!r} is no preset; {kind}s has {', '.join(presets)}")
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
