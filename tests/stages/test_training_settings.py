"""The settings of the training stages: parameters and launch settings meet in the recipe, and only there."""

from dataclasses import asdict
from pathlib import Path

import pytest
from tiny_backbones import write_panoramas

from panollava.params import Launch, load_params
from panollava.settings import finetune_arguments, model_settings, resampler_arguments, vision_arguments
from panollava.training.recipe import Recipe, steps_of_epochs
from stages.finetune_lora import FinetuneParams
from stages.train_resampler import TrainResamplerParams
from stages.train_vision import TrainVisionParams

PARAMS = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
QUIET = Launch(workers=0, save_steps=5, activation_checkpointing=False, compile=False, report_to="none")
LOUD = Launch(workers=3, save_steps=7, activation_checkpointing=True, compile=True, report_to=["tensorboard"])
PLACES = (Path("store"), Path("runs/stage"))


def differing(a: Recipe, b: Recipe) -> set[str]:
    """Return the names of the fields that differ."""
    first, second = asdict(a), asdict(b)
    return {name for name in first if first[name] != second[name]}


def test_launch_settings_reach_the_recipe() -> None:
    model = PARAMS.model["hub"]
    quiet, loud = (
        finetune_arguments(PARAMS.finetune_lora["hub"], model, launch, 0, *PLACES)["recipe"] for launch in (QUIET, LOUD)
    )
    assert differing(quiet, loud) == set(Launch.model_fields)
    assert (loud.workers, loud.save_steps, loud.activation_checkpointing, loud.compile) == (3, 7, True, True)
    assert (quiet.report_to, loud.report_to, loud.logs) == ((), ("tensorboard",), "runs/stage")


def test_the_vision_stage_has_no_layers_to_compile_or_to_compute_twice() -> None:
    model = PARAMS.model["hub"]
    quiet, loud = (
        vision_arguments(PARAMS.train_vision["hub"], model, launch, 0, *PLACES)["recipe"] for launch in (QUIET, LOUD)
    )
    assert differing(quiet, loud) == {"workers", "save_steps", "report_to"}
    assert not loud.activation_checkpointing
    assert not loud.compile


def test_every_number_of_a_section_reaches_its_stage() -> None:
    section, model = PARAMS.finetune_lora["standin"], PARAMS.model["standin"]
    changes = {
        "steps": 11, "batch_size": 3, "accumulation": 2, "warmup": 5.0, "schedule": "constant_with_warmup",
        "validate_every": 4, "keep": "best", "patience": 2, "mask_weight": 0.5, "lora": None, "freeze_layers": 1,
        "save_lora_only": False, "records_per_panorama": 9, "load_in_4bit": True,
    }  # fmt: skip
    one, other = (
        finetune_arguments(each, model, QUIET, 0, *PLACES) for each in (section, section.model_copy(update=changes))
    )
    assert differing(one["recipe"], other["recipe"]) == changes.keys() & set(asdict(one["recipe"]))
    assert {name for name in one if name != "recipe" and one[name] != other[name]} == {
        "lora", "freeze_layers", "save_lora_only", "records"
    }  # fmt: skip


def test_epochs_are_counted_in_panoramas(tmp_path: Path) -> None:
    write_panoramas(tmp_path, 5)
    places = (tmp_path, Path("runs"))
    model, section = PARAMS.model["standin"], PARAMS.train_resampler["standin"]
    for epochs, steps in ((1.0, 2), (2.0, 3), (0.2, 1), (4.0, 5)):
        changes = {"steps": None, "epochs": epochs, "batch_size": 2, "accumulation": 2}
        found = resampler_arguments(section.model_copy(update=changes), model, QUIET, 0, *places)["recipe"]
        assert found.steps == steps
        assert found.draws >= epochs * 5 > found.draws - 4
    changes |= {"warmup": 5.0}
    with pytest.raises(ValueError, match="warmup = 5 steps, but epochs = 4 are 5 steps"):
        resampler_arguments(section.model_copy(update=changes), model, QUIET, 0, *places)


def test_epochs_are_exact_where_decimals_are_not() -> None:
    assert steps_of_epochs(0.1, 800, 8) == 10
    assert steps_of_epochs(1.1, 30, 3) == 11
    assert steps_of_epochs(0.001, 10, 4) == 1


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
