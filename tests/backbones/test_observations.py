"""Scenes as observations: every object, its own words and numbers up to the noise, and shares that add up."""

import math
from collections import Counter, defaultdict
from random import Random

import pytest

from panollava.backbones.standins import observations as module
from panollava.backbones.standins.observations import SCENERY, SLOTS, Observation, sample_observations
from panollava.corpus.vocabulary import LANGUAGES, WORDS
from panollava.corpus.world.scenes import sample_scene

SCENES = [sample_scene(3, split="text", index=index) for index in range(150)]


def shares(observation: Observation) -> dict[str, float]:
    """Return the sum of the weights of each slot."""
    sums: dict[str, float] = defaultdict(float)
    for word in observation:
        sums[SLOTS[word.slot]] += word.weight
    return sums


def is_scenery(observation: Observation) -> bool:
    return len(observation) == 1


def number(observation: Observation, slot: str) -> float:
    """Return the number that the words of a slot encode; those of a yaw may lie on both sides of the seam."""
    values = [(float(word.text), word.weight) for word in observation if SLOTS[word.slot] == slot]
    first = values[0][0]
    period = 360 if slot == "yaw" else math.inf
    return sum((first + math.remainder(value - first, period)) * weight for value, weight in values)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observe one object at a time, with certain names."""
    monkeypatch.setattr(module, "PAIR_SHARE", 0.0)
    monkeypatch.setattr(module, "UNCERTAIN_SHARE", {"colour": 0.0, "shape": 0.0})


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_shares_of_every_slot_add_up(language: str) -> None:
    uncertain = pairs = total = 0
    for index, scene in enumerate(SCENES):
        for observation in sample_observations(scene, language, Random(index)):
            sums = shares(observation)
            if is_scenery(observation):
                assert observation[0].text in SCENERY[language]
                continue
            assert set(sums) == set(SLOTS)
            assert all(math.isclose(value, 1) for value in sums.values())
            names = Counter(SLOTS[word.slot] for word in observation)
            pairs += names["yaw"] == 4
            uncertain += names["shape"] > names["yaw"] / 2
            total += 1
    assert abs(pairs / total - module.PAIR_SHARE) < 0.03
    assert 0.15 < uncertain / total < 0.3


def test_every_object_is_named_with_its_words_and_numbers(plain: None) -> None:
    errors = []
    for index, scene in enumerate(SCENES):
        seen = set()
        for observation in sample_observations(scene, "en", Random(index)):
            if is_scenery(observation):
                continue
            colour, shape = (word.text.strip() for word in observation[:2])
            candidates = [o for o in scene.objects if (o.colour, o.shape) == (colour, shape)]
            assert candidates
            yaw, pitch = number(observation, "yaw"), number(observation, "pitch")
            near = min(candidates, key=lambda o: abs(math.remainder(o.yaw_deg - yaw, 360)) + abs(o.pitch_deg - pitch))
            seen.add(near)
            errors.append(math.remainder(near.yaw_deg - yaw, 360) * math.cos(math.radians(near.pitch_deg)))
            assert 0.5 < number(observation, "width") / near.box_deg[2] < 2
        assert seen == set(scene.objects)
    assert abs(sum(errors)) / len(errors) < 0.3
    spread = math.sqrt(sum(e * e for e in errors) / len(errors))
    assert 1.5 < spread < 3.5


def test_a_number_between_two_degrees_is_both_words_in_proportion(plain: None) -> None:
    crossed = 0
    for index, scene in enumerate(SCENES):
        for observation in sample_observations(scene, "en", Random(index)):
            for slot in ("yaw", "pitch", "width", "height"):
                words = [word for word in observation if SLOTS[word.slot] == slot]
                if not words:
                    continue
                low, high = (int(word.text) for word in words)
                assert high == low + 1 or (slot, low, high) == ("yaw", 179, -180)
                crossed += high < low
                assert -180 <= low < 180
    assert crossed


def test_languages_use_their_own_words() -> None:
    for language in LANGUAGES:
        observations = sample_observations(SCENES[0], language, Random(0))
        words_of_objects = [word for o in observations if not is_scenery(o) for word in o]
        for slot, names in (("colour", module.COLOURS), ("shape", module.SHAPES)):
            words = {word.text for word in words_of_objects if SLOTS[word.slot] == slot}
            assert words
            assert words <= {f" {WORDS[language][name]}" for name in names}
