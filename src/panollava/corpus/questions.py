"""Questions about a synthetic scene, free of any language: what is asked, and the exact answer.

Each generator draws one question of its type, or None where the scene does not allow an unambiguous one. The draws are
balanced so that neither the wording nor the most frequent answer gives the answer away. `wording` puts them into words.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, TypeVar

from panollava.corpus.world.scenes import COLOURS, SHAPES, Scene, SceneObject

SECTOR_DEG = 45.0
# An object nearer than this to the border of two sectors could honestly be called either.
SECTOR_MARGIN_DEG = 4.0


class Placed(Protocol):
    """Whatever stands in a direction: an object of a scene, or one that a record describes."""

    @property
    def yaw_deg(self) -> float:
        """Return its yaw, positive to the right."""

    @property
    def pitch_deg(self) -> float:
        """Return its pitch, positive up."""


Thing = TypeVar("Thing", bound=Placed)


@dataclass(frozen=True)
class Question:
    """One question: its type, its task, the values its wording needs, its answer and the typed answer to score."""

    type: str
    task: str
    answer: Any
    slots: dict[str, Any] = field(default_factory=dict)
    typed: dict[str, Any] | None = None


def sector(yaw_deg: float) -> int | None:
    """Return which of eight sectors (0 front, 2 right, 4 behind, 6 left) a yaw falls in, None near a border."""
    nearest = round(yaw_deg / SECTOR_DEG)
    if abs(yaw_deg / SECTOR_DEG - nearest) * SECTOR_DEG > SECTOR_DEG / 2 - SECTOR_MARGIN_DEG:
        return None
    return nearest % 8


def turn_deg(source: Placed, target: Placed) -> float:
    """Return the signed turn in [-180, 180) from `source` to `target`, positive to the right."""
    return (target.yaw_deg - source.yaw_deg + 180) % 360 - 180


def side(faced: Placed, asked: Placed) -> str | None:
    """Return on which side of `faced` the other lies, `left` or `right`; None where it is nearly ahead or behind."""
    turn = turn_deg(faced, asked)
    if not 15 <= abs(turn) <= 165:
        return None
    return "right" if turn > 0 else "left"


def left_neighbour(item: Thing, objects: Sequence[Thing]) -> Thing | None:
    """Return the next of `objects` to the left of `item`, at most 120 degrees away; None where there is none."""
    lefts = [o for o in below_60(objects) if o is not item and -120 < turn_deg(item, o) < -5]
    return max(lefts, key=lambda o: turn_deg(item, o), default=None)


def _unique(scene: Scene, key: Callable[[SceneObject], Any]) -> list[SceneObject]:
    counts = Counter(key(o) for o in scene.objects)
    return [o for o in scene.objects if counts[key(o)] == 1]


def _labelled(scene: Scene) -> list[SceneObject]:
    return _unique(scene, lambda o: o.label)


def below_60(objects: Sequence[Thing]) -> list[Thing]:
    """Return the objects whose compass direction means something to a person."""
    return [o for o in objects if abs(o.pitch_deg) < 60]


def whole_box(box_deg: Sequence[float]) -> list[int]:
    """Return a box in whole degrees, as the answers spell it; no side is shorter than one."""
    yaw, pitch, width, height = (round(v) for v in box_deg)
    return [(yaw + 180) % 360 - 180, pitch, max(width, 1), max(height, 1)]


def box_answer(item: SceneObject) -> list[int]:
    """Return the box of an object in whole degrees, as the answers spell it."""
    return whole_box(item.box_deg)


def _existence(scene: Scene, rng: Random) -> Question | None:
    present = {(o.colour, o.shape) for o in scene.objects}
    if rng.random() < 0.5:
        return Question("existence", "choice", True, {"object": rng.choice(sorted(present))})
    colours, shapes = sorted({c for c, _ in present}), sorted({s for _, s in present})
    hard = [(c, s) for c in colours for s in shapes if (c, s) not in present]
    absent = hard or [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in present]
    return Question("existence", "choice", False, {"object": rng.choice(absent)})


def _colour(scene: Scene, rng: Random) -> Question | None:
    candidates = _unique(scene, lambda o: o.shape)
    if not candidates:
        return None
    item = rng.choice(candidates)
    return Question("colour", "choice", item.colour, {"shape": item.shape})


def _shape(scene: Scene, rng: Random) -> Question | None:
    candidates = _unique(scene, lambda o: o.colour)
    if not candidates:
        return None
    item = rng.choice(candidates)
    return Question("shape", "choice", item.shape, {"colour": item.colour})


def _count(scene: Scene, rng: Random) -> Question:
    counts: dict[int, list[tuple[str, str]]] = {}
    for kind, names in (("colour", COLOURS), ("shape", SHAPES)):
        for name in names:
            number = sum(name in (o.colour, o.shape) for o in scene.objects)
            counts.setdefault(min(number, 4), []).append((kind, name))
    number = rng.choice(sorted(counts))
    kind, name = rng.choice(counts[number])
    exact = sum(name in (o.colour, o.shape) for o in scene.objects)
    return Question("count", "choice", exact, {"counted": (kind, name)})


def _direction8(scene: Scene, rng: Random) -> Question | None:
    by_sector: dict[int, list[SceneObject]] = {}
    for item in below_60(_labelled(scene)):
        place = sector(item.yaw_deg)
        if place is not None:
            by_sector.setdefault(place, []).append(item)
    if not by_sector:
        return None
    # Most scenes have an object astride the seam; without the weight "behind" would be the answer too often.
    places = sorted(by_sector)
    place = rng.choices(places, [0.5 if p == 4 else 1.0 for p in places])[0]
    item = rng.choice(by_sector[place])
    return Question("direction8", "choice", place, {"object": (item.colour, item.shape)})


def _pair(candidates: list[SceneObject], rng: Random) -> tuple[SceneObject, SceneObject] | None:
    if len(candidates) < 2:
        return None
    first, second = rng.sample(candidates, 2)
    return first, second


def _relation(scene: Scene, rng: Random) -> Question | None:
    pair = _pair(below_60(_labelled(scene)), rng)
    place = None if pair is None else side(*pair)
    if pair is None or place is None:
        return None
    first, second = pair
    slots = {"first": (second.colour, second.shape), "second": (first.colour, first.shape)}
    return Question("relation", "choice", place, slots)


def _look(scene: Scene, rng: Random) -> Question:
    item = rng.choice(scene.objects)
    yaw, pitch, _, _ = box_answer(item)
    return Question("look", "choice", (item.colour, item.shape), {"yaw": yaw, "pitch": pitch})


def _nearest(scene: Scene, rng: Random) -> Question | None:
    pair = _pair([o for o in _labelled(scene) if o.grounded], rng)
    if pair is None or not abs(math.log(pair[0].distance / pair[1].distance)) > math.log(1.15):
        return None
    nearer = min(pair, key=lambda o: o.distance)
    slots = {"first": (pair[0].colour, pair[0].shape), "second": (pair[1].colour, pair[1].shape)}
    return Question("nearest", "choice", (nearer.colour, nearer.shape), slots)


def _turn(scene: Scene, rng: Random) -> Question | None:
    pair = _pair(below_60(_labelled(scene)), rng)
    place = None if pair is None else sector(turn_deg(*pair))
    if pair is None or place is None:
        return None
    faced, asked = pair
    slots = {"first": (faced.colour, faced.shape), "second": (asked.colour, asked.shape)}
    return Question("turn", "choice", place, slots)


def _pointing(scene: Scene, rng: Random) -> Question | None:
    candidates = _labelled(scene)
    if not candidates:
        return None
    item = rng.choice(candidates)
    yaw, pitch, _, _ = box_answer(item)
    typed = {"yaw_deg": item.box_deg[0], "pitch_deg": item.box_deg[1]}
    return Question("pointing", "direction", (yaw, pitch), {"object": (item.colour, item.shape)}, typed)


def _grounding(scene: Scene, rng: Random) -> Question | None:
    candidates = _labelled(scene)
    if not candidates:
        return None
    item = rng.choice(candidates)
    typed = {"label": item.label, "box_deg": list(item.box_deg)}
    return Question("grounding", "grounding", box_answer(item), {"object": (item.colour, item.shape)}, typed)


def _detected(kind: str, objects: Sequence[SceneObject], slots: dict[str, Any]) -> Question:
    """Return a question of type `kind` whose answer is the boxes of `objects`."""
    ordered = sorted(objects, key=lambda o: box_answer(o))
    answer = [((o.colour, o.shape), box_answer(o)) for o in ordered]
    typed = {"objects": [{"label": o.label, "box_deg": list(o.box_deg)} for o in ordered]}
    return Question(kind, "detection", answer, slots, typed)


def _detection(scene: Scene, rng: Random) -> Question:
    return _detected("detection", scene.objects, {})


def _descriptions(item: SceneObject) -> dict[str, Any]:
    """Return what can be said of an object, by kind: its colour, its shape, both, and where it is."""
    place = "ground" if item.grounded else "air"
    return {"colour": item.colour, "shape": item.shape, "object": (item.colour, item.shape), "place": place}


def _detection_described(scene: Scene, rng: Random) -> Question | None:
    fitting: dict[tuple[str, Any], list[SceneObject]] = {}
    for item in scene.objects:
        for described in _descriptions(item).items():
            fitting.setdefault(described, []).append(item)
    # What fits all objects asks for no more than "every object" does.
    some = {described: found for described, found in fitting.items() if len(found) < len(scene.objects)}
    if not some:
        return None
    # First the number, then the kind: most descriptions fit a single object.
    number = rng.choice(sorted({min(len(found), 4) for found in some.values()}))
    some = {described: found for described, found in some.items() if min(len(found), 4) == number}
    kind = rng.choice(sorted({kind for kind, _ in some}))
    described = rng.choice(sorted(described for described in some if described[0] == kind))
    return _detected("detection_described", some[described], {"described": described})


def _description(scene: Scene, rng: Random) -> Question:
    clockwise = sorted(scene.objects, key=lambda o: o.yaw_deg % 360)
    seen = [((o.colour, o.shape), round(o.yaw_deg / SECTOR_DEG) % 8) for o in clockwise]
    return Question("description", "description", (scene.kind, seen), {})


GENERATORS: dict[str, Callable[[Scene, Random], Question | None]] = {
    "existence": _existence,
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "direction8": _direction8,
    "relation": _relation,
    "look": _look,
    "nearest": _nearest,
    "turn": _turn,
    "pointing": _pointing,
    "grounding": _grounding,
    "detection": _detection,
    "detection_described": _detection_described,
    "description": _description,
}


def dialogue(scene: Scene, rng: Random) -> list[Question]:
    """Return three turns of which the later two only make sense after the earlier ones; empty if there is no pair."""
    candidates = [o for o in below_60(_labelled(scene)) if sector(o.yaw_deg) is not None]
    rng.shuffle(candidates)
    for item in candidates:
        neighbour = left_neighbour(item, scene.objects)
        if neighbour is None or sector(neighbour.yaw_deg) is None:
            continue
        return [
            Question("dialogue_direction8", "choice", sector(item.yaw_deg), {"object": (item.colour, item.shape)}),
            Question("dialogue_left", "choice", (neighbour.colour, neighbour.shape), {}),
            Question("dialogue_where", "choice", sector(neighbour.yaw_deg), {}),
        ]
    return []


def ask(scene: Scene, rng: Random, *, per_type: dict[str, int], tries: int = 4) -> list[list[Question]]:
    """Return dialogues about a scene: `per_type[t]` single questions of each type t, distinct, and `dialogue` ones.

    A type for which the scene allows fewer unambiguous questions gives fewer.
    """
    asked: list[list[Question]] = []
    for kind, number in per_type.items():
        found: list[list[Question]] = []
        for _ in range(number * tries):
            if len(found) == number:
                break
            turns = dialogue(scene, rng) if kind == "dialogue" else [GENERATORS[kind](scene, rng)]
            possible = [turn for turn in turns if turn is not None]
            if possible and len(possible) == len(turns) and possible not in found:
                found.append(possible)
        asked.extend(found)
    return asked
