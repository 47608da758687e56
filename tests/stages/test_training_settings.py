"""The settings of the training stages: parameters and launch settings meet in the recipe, and only there."""

from dataclasses import asdict
from pathlib import Path

from panollava.params import Launch, load_params
from panollava.training.recipe import Recipe
from stages.finetune_lora import FinetuneParams
from stages.language import language_recipe
from stages.train_resampler import TrainResamplerParams
from stages.train_vision import TrainVisionParams
from stages.training import model_settings, recipe

PARAMS = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
QUIET = Launch(workers=0, save_steps=5, activation_checkpointing=False, compile=False)
LOUD = Launch(workers=3, save_steps=7, activation_checkpointing=True, compile=True)


def differing(a: Recipe, b: Recipe) -> set[str]:
    """Return the names of the fields that differ."""
    first, second = asdict(a), asdict(b)
    return {name for name in first if first[name] != second[name]}


def test_launch_settings_reach_the_recipe() -> None:
    model = PARAMS.model["hub"]
    quiet, loud = (language_recipe(PARAMS.finetune_lora["hub"], model, launch, 0) for launch in (QUIET, LOUD))
    assert differing(quiet, loud) == set(Launch.model_fields)
    assert (loud.workers, loud.save_steps, loud.activation_checkpointing, loud.compile) == (3, 7, True, True)


def test_the_vision_stage_has_no_layers_to_compile_or_to_compute_twice() -> None:
    model = PARAMS.model["hub"]
    quiet, loud = (recipe(PARAMS.train_vision["hub"], model, launch, 0) for launch in (QUIET, LOUD))
    assert differing(quiet, loud) == {"workers", "save_steps"}
    assert not loud.activation_checkpointing
    assert not loud.compile


def test_no_launch_setting_names_the_scratch_folder() -> None:
    for model in (TrainVisionParams, TrainResamplerParams, FinetuneParams):
        stage = {name: PARAMS.model_dump(mode="json")[name] for name in model.model_fields}
        dumped = str(model.model_validate(stage).model_dump(mode="json"))
        assert not [name for name in Launch.model_fields if f"'{name}'" in dumped]


def test_view_settings_are_handed_on_as_one() -> None:
    model = PARAMS.model["standin"]
    settings = model_settings(model)["settings"]
    assert settings.views is model.views
    assert asdict(settings).keys() == set(type(model).model_fields) - {"dtype", "compute"}
