"""Questions about a synthetic scene, independent of any language, with exact answers; `wording` puts them into words.

Each generator draws one question of its type, or None if the scene allows no unambiguous one. The draws are balanced,
so that neither the wording nor the most frequent answer gives the right one away.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from random import Random
from typing import Any

from panollava.corpus.directions import SECTOR_DEG, below_60, left_neighbour, relative_yaw_deg, sector, side, whole_box
from panollava.corpus.world.scenes import COLOURS, SHAPES, Scene, SceneObject


@dataclass(frozen=True)
class WorldQuestion:
    """One question: its type, its task, its answer, the values its wording needs, and the typed answer for scoring."""

    type: str
    task: str
    answer: Any
    slots: dict[str, Any] = field(default_factory=dict)
    typed_answer: dict[str, Any] | None = None


def _unique(scene: Scene, key: Callable[[SceneObject], Any]) -> list[SceneObject]:
    counts = Counter(key(o) for o in scene.objects)
    return [o for o in scene.objects if counts[key(o)] == 1]


def _with_unique_label(scene: Scene) -> list[SceneObject]:
    return _unique(scene, lambda o: o.label)


def box_answer(item: SceneObject) -> list[int]:
    """Return the box of an object in whole degrees, as answers write it."""
    return whole_box(item.box_deg)


def _existence(scene: Scene, rng: Random) -> WorldQuestion | None:
    present = {(o.colour, o.shape) for o in scene.objects}
    if rng.random() < 0.5:
        return WorldQuestion("existence", "choice", True, {"object": rng.choice(sorted(present))})
    colours, shapes = sorted({c for c, _ in present}), sorted({s for _, s in present})
    hard = [(c, s) for c in colours for s in shapes if (c, s) not in present]
    absent = hard or [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in present]
    return WorldQuestion("existence", "choice", False, {"object": rng.choice(absent)})


def _attribute(asked: str, given: str) -> Callable[[Scene, Random], WorldQuestion | None]:
    """Return the generator that asks for an attribute of an object, named by another one that it alone has."""

    def draw(scene: Scene, rng: Random) -> WorldQuestion | None:
        candidates = _unique(scene, attrgetter(given))
        if not candidates:
            return None
        item = rng.choice(candidates)
        return WorldQuestion(asked, "choice", attrgetter(asked)(item), {given: attrgetter(given)(item)})

    return draw


def _count(scene: Scene, rng: Random) -> WorldQuestion:
    counts: dict[int, list[tuple[str, str]]] = {}
    for kind, names in (("colour", COLOURS), ("shape", SHAPES)):
        for name in names:
            number = sum(name in (o.colour, o.shape) for o in scene.objects)
            counts.setdefault(min(number, 4), []).append((kind, name))
    number = rng.choice(sorted(counts))
    kind, name = rng.choice(counts[number])
    exact = sum(name in (o.colour, o.shape) for o in scene.objects)
    return WorldQuestion("count", "choice", exact, {"counted": (kind, name)})


def _direction8(scene: Scene, rng: Random) -> WorldQuestion | None:
    by_sector: dict[int, list[SceneObject]] = {}
    for item in below_60(_with_unique_label(scene)):
        number = sector(item.yaw_deg)
        if number is not None:
            by_sector.setdefault(number, []).append(item)
    if not by_sector:
        return None
    # Most scenes have an object astride the seam. Without the weight, "behind" would be the answer too often.
    sectors = sorted(by_sector)
    number = rng.choices(sectors, [0.5 if n == 4 else 1.0 for n in sectors])[0]
    item = rng.choice(by_sector[number])
    return WorldQuestion("direction8", "choice", number, {"object": (item.colour, item.shape)})


def _pair(candidates: list[SceneObject], rng: Random) -> tuple[SceneObject, SceneObject] | None:
    if len(candidates) < 2:
        return None
    first, second = rng.sample(candidates, 2)
    return first, second


def _relation(scene: Scene, rng: Random) -> WorldQuestion | None:
    pair = _pair(below_60(_with_unique_label(scene)), rng)
    answer = None if pair is None else side(*pair)
    if pair is None or answer is None:
        return None
    first, second = pair
    slots = {"first": (second.colour, second.shape), "second": (first.colour, first.shape)}
    return WorldQuestion("relation", "choice", answer, slots)


def _look(scene: Scene, rng: Random) -> WorldQuestion:
    item = rng.choice(scene.objects)
    yaw, pitch, _, _ = box_answer(item)
    return WorldQuestion("look", "choice", (item.colour, item.shape), {"yaw": yaw, "pitch": pitch})


def _nearest(scene: Scene, rng: Random) -> WorldQuestion | None:
    pair = _pair([o for o in _with_unique_label(scene) if o.grounded], rng)
    if pair is None or not abs(math.log(pair[0].distance / pair[1].distance)) > math.log(1.15):
        return None
    nearer = min(pair, key=lambda o: o.distance)
    slots = {"first": (pair[0].colour, pair[0].shape), "second": (pair[1].colour, pair[1].shape)}
    return WorldQuestion("nearest", "choice", (nearer.colour, nearer.shape), slots)


def _relative_direction(scene: Scene, rng: Random) -> WorldQuestion | None:
    pair = _pair(below_60(_with_unique_label(scene)), rng)
    answer = None if pair is None else sector(relative_yaw_deg(*pair))
    if pair is None or answer is None:
        return None
    faced, other = pair
    slots = {"first": (faced.colour, faced.shape), "second": (other.colour, other.shape)}
    return WorldQuestion("turn", "choice", answer, slots)


def _pointing(scene: Scene, rng: Random) -> WorldQuestion | None:
    candidates = _with_unique_label(scene)
    if not candidates:
        return None
    item = rng.choice(candidates)
    yaw, pitch, _, _ = box_answer(item)
    typed = {"yaw_deg": item.box_deg[0], "pitch_deg": item.box_deg[1]}
    return WorldQuestion("pointing", "direction", (yaw, pitch), {"object": (item.colour, item.shape)}, typed)


def _grounding(scene: Scene, rng: Random) -> WorldQuestion | None:
    candidates = _with_unique_label(scene)
    if not candidates:
        return None
    item = rng.choice(candidates)
    typed = {"label": item.label, "box_deg": list(item.box_deg)}
    return WorldQuestion("grounding", "grounding", box_answer(item), {"object": (item.colour, item.shape)}, typed)


def _detected(kind: str, objects: Sequence[SceneObject], slots: dict[str, Any]) -> WorldQuestion:
    """Return a question of type `kind` whose answer is the boxes of `objects`."""
    ordered = sorted(objects, key=lambda o: box_answer(o))
    answer = [((o.colour, o.shape), box_answer(o)) for o in ordered]
    typed = {"objects": [{"label": o.label, "box_deg": list(o.box_deg)} for o in ordered]}
    return WorldQuestion(kind, "detection", answer, slots, typed)


def _detection(scene: Scene, rng: Random) -> WorldQuestion:
    return _detected("detection", scene.objects, {})


def _descriptions(item: SceneObject) -> dict[str, Any]:
    """Return the descriptions of an object by kind: its colour, its shape, both, and its position."""
    position = "ground" if item.grounded else "air"
    return {"colour": item.colour, "shape": item.shape, "object": (item.colour, item.shape), "place": position}


def _detection_described(scene: Scene, rng: Random) -> WorldQuestion | None:
    fitting: dict[tuple[str, Any], list[SceneObject]] = {}
    for item in scene.objects:
        for described in _descriptions(item).items():
            fitting.setdefault(described, []).append(item)
    # A description that fits all objects is the same as "every object".
    some = {described: found for described, found in fitting.items() if len(found) < len(scene.objects)}
    if not some:
        return None
    # The number of objects is drawn before the kind, since most descriptions fit a single object.
    number = rng.choice(sorted({min(len(found), 4) for found in some.values()}))
    some = {described: found for described, found in some.items() if min(len(found), 4) == number}
    kind = rng.choice(sorted({kind for kind, _ in some}))
    described = rng.choice(sorted(described for described in some if described[0] == kind))
    return _detected("detection_described", some[described], {"described": described})


def _description(scene: Scene, rng: Random) -> WorldQuestion:
    clockwise = sorted(scene.objects, key=lambda o: o.yaw_deg % 360)
    seen = [((o.colour, o.shape), round(o.yaw_deg / SECTOR_DEG) % 8) for o in clockwise]
    return WorldQuestion("description", "description", (scene.kind, seen), {})


GENERATORS: dict[str, Callable[[Scene, Random], WorldQuestion | None]] = {
    "existence": _existence,
    "colour": _attribute("colour", given="shape"),
    "shape": _attribute("shape", given="colour"),
    "count": _count,
    "direction8": _direction8,
    "relation": _relation,
    "look": _look,
    "nearest": _nearest,
    "turn": _relative_direction,
    "pointing": _pointing,
    "grounding": _grounding,
    "detection": _detection,
    "detection_described": _detection_described,
    "description": _description,
}


def dialogue(scene: Scene, rng: Random) -> list[WorldQuestion]:
    """Return three turns, of which the later two refer back to the earlier ones; empty if no pair of objects fits."""
    candidates = [o for o in below_60(_with_unique_label(scene)) if sector(o.yaw_deg) is not None]
    rng.shuffle(candidates)
    for item in candidates:
        neighbour = left_neighbour(item, scene.objects)
        if neighbour is None or sector(neighbour.yaw_deg) is None:
            continue
        return [
            WorldQuestion("dialogue_direction8", "choice", sector(item.yaw_deg), {"object": (item.colour, item.shape)}),
            WorldQuestion("dialogue_left", "choice", (neighbour.colour, neighbour.shape), {}),
            WorldQuestion("dialogue_where", "choice", sector(neighbour.yaw_deg), {}),
        ]
    return []


def sample_dialogues(
    scene: Scene, rng: Random, *, per_type: dict[str, int], tries: int = 4
) -> list[list[WorldQuestion]]:
    """Return dialogues about a scene: `per_type[t]` distinct ones of each type t, of one turn, `dialogue` of three.

    A type has fewer if the scene allows fewer unambiguous questions of it.
    """
    dialogues: list[list[WorldQuestion]] = []
    for kind, number in per_type.items():
        found: list[list[WorldQuestion]] = []
        for _ in range(number * tries):
            if len(found) == number:
                break
            turns = dialogue(scene, rng) if kind == "dialogue" else [GENERATORS[kind](scene, rng)]
            possible = [turn for turn in turns if turn is not None]
            if possible and len(possible) == len(turns) and possible not in found:
                found.append(possible)
        dialogues.extend(found)
    return dialogues
