"""A scene told in glances: each names one thing, or two at once, in words that are read together as one position.

A glance is a list of words with a slot and a weight: colour, shape, yaw, pitch, width, height. Its numbers are as
rough as a glance is: they scatter, and a number between two whole degrees is both of their words in proportion. An
object is glanced at several times, sometimes with a doubtful colour or shape; the scenery fills the rest. Text only.
"""

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from panollava.corpus.wording import WORDS
from panollava.corpus.world.scenes import COLOURS, SHAPES, Scene, SceneObject, gap_deg

SLOTS = ("colour", "shape", "yaw", "pitch", "width", "height")
SCENERY = {"en": (" ground", " wall", " sky"), "ko": (" 바닥", " 벽", " 하늘")}
GLANCES_PER_OBJECT = 8
SCENERY_GLANCES = 100
TWO_AT_ONCE = 0.25
DOUBTFUL = {"colour": 0.05, "shape": 0.2}
SCATTER_DEG, ROUGH_SCATTER_DEG, ROUGH = 1.5, 5.0, 0.15
SIZE_SCATTER = 0.12


class Word(NamedTuple):
    """One word of a glance: the slot that it stands in (an index into SLOTS), its text and its share of the slot."""

    slot: int
    text: str
    weight: float


Glance = list[Word]


def glances(scene: Scene, language: str, rng: Random) -> list[Glance]:
    """Return a scene as glances in a random order."""
    made = []
    for item in scene.objects:
        other = min((o for o in scene.objects if o is not item), key=lambda o: gap_deg(item, o))
        for _ in range(rng.randint(1, GLANCES_PER_OBJECT)):
            words = _object(item, language, rng)
            if rng.random() < TWO_AT_ONCE:
                share = rng.random()
                words = _scaled(words, 1 - share) + _scaled(_object(other, language, rng), share)
            made.append(words)
    for _ in range(rng.randint(0, SCENERY_GLANCES)):
        made.append([Word(SLOTS.index("shape"), rng.choice(SCENERY[language]), 1.0)])
    rng.shuffle(made)
    return made


def _object(item: SceneObject, language: str, rng: Random) -> Glance:
    scatter = ROUGH_SCATTER_DEG if rng.random() < ROUGH else SCATTER_DEG
    yaw, pitch, width, height = item.box_deg
    yaw += rng.gauss(0, scatter) / math.cos(math.radians(min(abs(pitch), 80)))
    pitch = max(-90.0, min(90.0, pitch + rng.gauss(0, scatter)))
    width, height = (side * math.exp(rng.gauss(0, SIZE_SCATTER)) for side in (width, height))
    return [
        *_name("colour", item.colour, COLOURS, language, rng),
        *_name("shape", item.shape, SHAPES, language, rng),
        *_number("yaw", (yaw + 180) % 360 - 180),
        *_number("pitch", pitch),
        *_number("width", width),
        *_number("height", height),
    ]


def _name(slot: str, name: str, names: Sequence[str], language: str, rng: Random) -> Glance:
    place = SLOTS.index(slot)
    if rng.random() >= DOUBTFUL[slot]:
        return [Word(place, f" {WORDS[language][name]}", 1.0)]
    other, sure = rng.choice([n for n in names if n != name]), rng.uniform(0.3, 1)
    return [Word(place, f" {WORDS[language][name]}", sure), Word(place, f" {WORDS[language][other]}", 1 - sure)]


def _number(slot: str, value: float) -> Glance:
    """Return the whole degrees around a value, each in proportion to its nearness; 180 is -180."""
    low = math.floor(value)
    place, share = SLOTS.index(slot), value - low
    high = -180 if low == 179 and slot == "yaw" else low + 1
    return [Word(place, str(low), 1 - share), Word(place, str(high), share)]


def _scaled(words: Glance, share: float) -> Glance:
    return [Word(word.slot, word.text, word.weight * share) for word in words]
