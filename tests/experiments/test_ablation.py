"""The ablation study: its arms are parameters that exist, its table and figure show the measured numbers."""

import pytest
from conftest import PROJECT
from ruamel.yaml import YAML

from panollava.experiments.ablation import ARMS, SEEDS, cells, markdown, summarise
from panollava.params import Params
from panollava.report.ablation_figure import ablation_figure
from panollava.report.style import png_bytes
from panollava.vlm.views import view_poses


def changed(params: dict, settings: dict[str, str]) -> dict:
    yaml = YAML(typ="safe")
    for key, value in settings.items():
        *path, last = key.split(".")
        section = params
        for part in path:
            section = section[part]
        assert last in section, key
        section[last] = yaml.load(value)
    return params


@pytest.mark.parametrize("weights", ["standin", "hub"])
def test_every_arm_is_a_valid_set_of_parameters(weights: str) -> None:
    yaml = YAML(typ="safe")
    default = Params.model_validate(yaml.load(PROJECT / "params.yaml"))
    found = cells(list(ARMS), SEEDS, weights)
    assert len(found) == len(ARMS) * len(SEEDS)
    seen = [Params.model_validate(changed(yaml.load(PROJECT / "params.yaml"), settings)) for settings in found.values()]
    assert {params.seed for params in seen} == set(SEEDS)
    same_seed = [params for params in seen if params.seed == default.seed]
    assert default in same_seed
    if weights == default.weights:
        assert all(same_seed.count(params) == 1 for params in same_seed)


def test_the_polar_arms_differ_from_their_namesakes_in_the_world_alone() -> None:
    for weights in ("standin", "hub"):
        found = cells(["default", "sphere", "poles-anyres_e2p", "poles-sphere"], (0,), weights)
        world = {"dataset.world.min_latitude_deg": "60"}
        yaml = YAML(typ="safe")
        for namesake, polar in (("default", "poles-anyres_e2p"), ("sphere", "poles-sphere")):
            usual, near_poles = (
                changed(yaml.load(PROJECT / "params.yaml"), settings)
                for settings in (found[f"{namesake}-s0"] | world, found[f"{polar}-s0"])
            )
            assert usual == near_poles


def test_other_views_have_about_as_many_tokens() -> None:
    yaml = YAML(typ="safe")
    for arm in ("resize", "cubemap", "e2p", "sphere", "adaptive"):
        settings = cells([arm], (0,), "standin")[f"{arm}-s0"]
        model = Params.model_validate(changed(yaml.load(PROJECT / "params.yaml"), settings)).model["standin"]
        poses = view_poses(model.views, view_size=120, tokens_per_side=model.tokens_per_side)
        assert 0.85 * 144 < len(poses) * model.tokens_per_side**2 < 1.1 * 144, arm


def test_an_unknown_arm_is_refused() -> None:
    with pytest.raises(ValueError, match="no arm is called code-yam; choose from default, overlap-none, "):
        cells(["code-yaw", "code-yam"], SEEDS, "standin")


def test_rows_are_means_over_seeds_with_the_lowest_and_the_highest() -> None:
    def run(value: float, **more: dict) -> dict:
        return {"evaluate": {"en": {"accuracy": {"value": value, "blind": 0.25}, **more}, "ko": {}}}

    metrics = {
        "unrotated-s0": run(0.5, direction={"median_deg": 4.0}),
        "unrotated-s1": run(0.75, direction={"median_deg": 6.0}),
        "mlp-s0": run(0.5, direction={"median_deg": 90.0}),
        "mlp-s1": run(0.5),  # without directions: no number is made of one seed alone
    }
    rows = summarise(metrics, ["unrotated", "mlp"], (0, 1))
    assert rows["unrotated"]["accuracy"] == {"mean": 0.625, "low": 0.5, "high": 0.75}
    assert "median_deg" not in rows["mlp"]
    title, _, *lines = markdown({"version": "1.2", "ablation": rows}).splitlines()
    assert title == "Made by version 1.2."
    assert lines[2] == "| unrotated | 2 | 0.625 [0.500, 0.750] | 0.250 [0.250, 0.250] | 5.0° [4.0°, 6.0°] | – | – | – |"
    assert lines[3].startswith("| mlp | 2 | 0.500 [0.500, 0.500] |")
    drawn = ablation_figure(rows)
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["unrotated", "mlp"]
    assert png_bytes(drawn) == png_bytes(ablation_figure(rows))
