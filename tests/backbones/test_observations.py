"""Scenes told in glances: every object, its own words and numbers up to the scatter, and shares that add up."""

import math
from collections import Counter, defaultdict
from random import Random

import pytest

from panollava.backbones.standins.observations import SCENERY, SLOTS, Glance, glances
from panollava.backbones.standins.train import glances as module
from panollava.corpus.vocabulary import LANGUAGES, WORDS
from panollava.corpus.world.scenes import sample_scene

SCENES = [sample_scene(3, split="text", index=index) for index in range(150)]


def shares(glance: Glance) -> dict[str, float]:
    """Return the sum of the weights of each slot."""
    sums: dict[str, float] = defaultdict(float)
    for word in glance:
        sums[SLOTS[word.slot]] += word.weight
    return sums


def is_scenery(glance: Glance) -> bool:
    return len(glance) == 1


def number(glance: Glance, slot: str) -> float:
    """Return the number that the words of a slot stand for; those of a yaw may lie on both sides of the seam."""
    values = [(float(word.text), word.weight) for word in glance if SLOTS[word.slot] == slot]
    first = values[0][0]
    turn = 360 if slot == "yaw" else math.inf
    return sum((first + math.remainder(value - first, turn)) * weight for value, weight in values)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name one thing at a time, beyond doubt."""
    monkeypatch.setattr(module, "TWO_AT_ONCE", 0.0)
    monkeypatch.setattr(module, "DOUBTFUL", {"colour": 0.0, "shape": 0.0})


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_shares_of_every_slot_add_up(language: str) -> None:
    doubtful = two = total = 0
    for index, scene in enumerate(SCENES):
        for glance in glances(scene, language, Random(index)):
            sums = shares(glance)
            if is_scenery(glance):
                assert glance[0].text in SCENERY[language]
                continue
            assert set(sums) == set(SLOTS)
            assert all(math.isclose(value, 1) for value in sums.values())
            names = Counter(SLOTS[word.slot] for word in glance)
            two += names["yaw"] == 4
            doubtful += names["shape"] > names["yaw"] / 2
            total += 1
    assert abs(two / total - module.TWO_AT_ONCE) < 0.03
    assert 0.15 < doubtful / total < 0.3


def test_every_object_is_named_with_its_words_and_numbers(plain: None) -> None:
    errors = []
    for index, scene in enumerate(SCENES):
        seen = set()
        for glance in glances(scene, "en", Random(index)):
            if is_scenery(glance):
                continue
            colour, shape = (word.text.strip() for word in glance[:2])
            candidates = [o for o in scene.objects if (o.colour, o.shape) == (colour, shape)]
            assert candidates
            yaw, pitch = number(glance, "yaw"), number(glance, "pitch")
            near = min(candidates, key=lambda o: abs(math.remainder(o.yaw_deg - yaw, 360)) + abs(o.pitch_deg - pitch))
            seen.add(near)
            errors.append(math.remainder(near.yaw_deg - yaw, 360) * math.cos(math.radians(near.pitch_deg)))
            assert 0.5 < number(glance, "width") / near.box_deg[2] < 2
        assert seen == set(scene.objects)
    assert abs(sum(errors)) / len(errors) < 0.3
    spread = math.sqrt(sum(e * e for e in errors) / len(errors))
    assert 1.5 < spread < 3.5


def test_a_number_between_two_degrees_is_both_in_proportion(plain: None) -> None:
    crossed = 0
    for index, scene in enumerate(SCENES):
        for glance in glances(scene, "en", Random(index)):
            for slot in ("yaw", "pitch", "width", "height"):
                words = [word for word in glance if SLOTS[word.slot] == slot]
                if not words:
                    continue
                low, high = (int(word.text) for word in words)
                assert high == low + 1 or (slot, low, high) == ("yaw", 179, -180)
                crossed += high < low
                assert -180 <= low < 180
    assert crossed


def test_languages_use_their_own_words() -> None:
    for language in LANGUAGES:
        told = [word for g in glances(SCENES[0], language, Random(0)) if not is_scenery(g) for word in g]
        for slot, names in (("colour", module.COLOURS), ("shape", module.SHAPES)):
            words = {word.text for word in told if SLOTS[word.slot] == slot}
            assert words
            assert words <= {f" {WORDS[language][name]}" for name in names}
