"""A scene as noisy observations, each of one object or of two at once, whose words share one position of the sequence.

An observation is a list of words with a slot (colour, shape, yaw, pitch, width, height) and a weight. Its numbers have
noise, and a number between two whole degrees becomes both of their words in proportion. Each object is observed several
times, sometimes with an uncertain colour or shape. Observations of the scenery fill the rest. Text only.
"""

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from panollava.corpus.vocabulary import WORDS
from panollava.corpus.world.scenes import COLOURS, SHAPES, Scene, SceneObject, gap_deg

SLOTS = ("colour", "shape", "yaw", "pitch", "width", "height")
SCENERY = {"en": (" ground", " wall", " sky"), "ko": (" 바닥", " 벽", " 하늘")}
OBSERVATIONS_PER_OBJECT = 8
SCENERY_OBSERVATIONS = 100
PAIR_SHARE = 0.25
UNCERTAIN_SHARE = {"colour": 0.05, "shape": 0.2}
# Standard deviations: of angles, of angles of a coarse observation, and of the logarithm of an extent.
NOISE_DEG, COARSE_NOISE_DEG, COARSE_SHARE = 1.5, 5.0, 0.15
EXTENT_NOISE = 0.12


class Word(NamedTuple):
    """One word of an observation: its slot (an index into SLOTS), its text and its share of the slot."""

    slot: int
    text: str
    weight: float


Observation = list[Word]


def sample_observations(scene: Scene, language: str, rng: Random) -> list[Observation]:
    """Return a scene as observations in random order."""
    observations = []
    for item in scene.objects:
        other = min((o for o in scene.objects if o is not item), key=lambda o: gap_deg(item, o))
        for _ in range(rng.randint(1, OBSERVATIONS_PER_OBJECT)):
            words = _object(item, language, rng)
            if rng.random() < PAIR_SHARE:
                share = rng.random()
                words = _scaled(words, 1 - share) + _scaled(_object(other, language, rng), share)
            observations.append(words)
    for _ in range(rng.randint(0, SCENERY_OBSERVATIONS)):
        observations.append([Word(SLOTS.index("shape"), rng.choice(SCENERY[language]), 1.0)])
    rng.shuffle(observations)
    return observations


def _object(item: SceneObject, language: str, rng: Random) -> Observation:
    noise = COARSE_NOISE_DEG if rng.random() < COARSE_SHARE else NOISE_DEG
    yaw, pitch, width, height = item.box_deg
    yaw += rng.gauss(0, noise) / math.cos(math.radians(min(abs(pitch), 80)))
    pitch = max(-90.0, min(90.0, pitch + rng.gauss(0, noise)))
    width, height = (side * math.exp(rng.gauss(0, EXTENT_NOISE)) for side in (width, height))
    return [
        *_name("colour", item.colour, COLOURS, language, rng),
        *_name("shape", item.shape, SHAPES, language, rng),
        *_number("yaw", (yaw + 180) % 360 - 180),
        *_number("pitch", pitch),
        *_number("width", width),
        *_number("height", height),
    ]


def _name(slot: str, name: str, names: Sequence[str], language: str, rng: Random) -> Observation:
    number = SLOTS.index(slot)
    if rng.random() >= UNCERTAIN_SHARE[slot]:
        return [Word(number, f" {WORDS[language][name]}", 1.0)]
    other, sure = rng.choice([n for n in names if n != name]), rng.uniform(0.3, 1)
    return [Word(number, f" {WORDS[language][name]}", sure), Word(number, f" {WORDS[language][other]}", 1 - sure)]


def _number(slot: str, value: float) -> Observation:
    """Return the two whole degrees around a value, each weighted by its nearness; 180 becomes -180."""
    low = math.floor(value)
    number, share = SLOTS.index(slot), value - low
    high = -180 if low == 179 and slot == "yaw" else low + 1
    return [Word(number, str(low), 1 - share), Word(number, str(high), share)]


def _scaled(words: Observation, share: float) -> Observation:
    return [Word(word.slot, word.text, word.weight * share) for word in words]
