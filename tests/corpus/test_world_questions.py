"""Questions about synthetic scenes: answers follow from the scene, are unambiguous and cannot be guessed."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from random import Random

import pytest

from panollava.corpus.vocabulary import LANGUAGES
from panollava.corpus.wording import answer_text
from panollava.corpus.world.scenes import Scene, SceneObject, sample_scene
from panollava.corpus.world_questions import GENERATORS, WorldQuestion, sample_dialogues

SCENES = 400
SECTOR_CENTRES = {0: 0, 1: 45, 2: 90, 3: 135, 4: 180, 5: -135, 6: -90, 7: -45}


@pytest.fixture(scope="module")
def dialogues() -> dict[str, list[tuple[Scene, list[WorldQuestion]]]]:
    """Return many dialogues of every type, each with its scene."""
    found = defaultdict(list)
    for index in range(SCENES):
        scene = sample_scene(11, split="train", index=index)
        for kind in (*GENERATORS, "dialogue"):
            for turns in sample_dialogues(scene, Random(f"{kind}/{index}"), per_type={kind: 1}):
                found[kind].append((scene, turns))
    return found


def named(scene: Scene, name: tuple[str, str]) -> SceneObject:
    """Return the only object of a name."""
    (item,) = [o for o in scene.objects if (o.colour, o.shape) == name]
    return item


def angle(a: float, b: float) -> float:
    """Return the angle between two yaws, in [0, 180]."""
    return abs(math.remainder(a - b, 360))


def nearest_sector(yaw_deg: float) -> int:
    """Return the sector with the nearest centre; no other centre may be nearly as close."""
    order = sorted(SECTOR_CENTRES, key=lambda number: angle(yaw_deg, SECTOR_CENTRES[number]))
    margin = angle(yaw_deg, SECTOR_CENTRES[order[1]]) - angle(yaw_deg, SECTOR_CENTRES[order[0]])
    assert margin >= 8 - 1e-6
    return order[0]


def side(source: SceneObject, target: SceneObject) -> str:
    """Return the side of `source` on which `target` is, from the cross product of their directions."""
    a, b = math.radians(source.yaw_deg), math.radians(target.yaw_deg)
    return "right" if math.cos(a) * math.sin(b) - math.sin(a) * math.cos(b) > 0 else "left"


def existence(scene: Scene, question: WorldQuestion) -> object:
    return any((o.colour, o.shape) == question.slots["object"] for o in scene.objects)


def colour(scene: Scene, question: WorldQuestion) -> object:
    (item,) = [o for o in scene.objects if o.shape == question.slots["shape"]]
    return item.colour


def shape(scene: Scene, question: WorldQuestion) -> object:
    (item,) = [o for o in scene.objects if o.colour == question.slots["colour"]]
    return item.shape


def count(scene: Scene, question: WorldQuestion) -> object:
    kind, name = question.slots["counted"]
    values = [o.colour if kind == "colour" else o.shape for o in scene.objects]
    return values.count(name)


def direction8(scene: Scene, question: WorldQuestion) -> object:
    return nearest_sector(named(scene, question.slots["object"]).yaw_deg)


def relation(scene: Scene, question: WorldQuestion) -> object:
    first, second = (named(scene, question.slots[name]) for name in ("first", "second"))
    assert 15 <= angle(first.yaw_deg, second.yaw_deg) <= 165
    return side(second, first)


def look(scene: Scene, question: WorldQuestion) -> object:
    yaw, pitch = question.slots["yaw"], question.slots["pitch"]
    assert -180 <= yaw < 180
    (item,) = [o for o in scene.objects if angle(o.yaw_deg, yaw) <= 0.5 and abs(o.pitch_deg - pitch) <= 0.5]
    return item.colour, item.shape


def nearest(scene: Scene, question: WorldQuestion) -> object:
    items = [named(scene, question.slots[name]) for name in ("first", "second")]
    assert all(item.grounded for item in items)
    near, far = sorted(items, key=lambda o: o.distance)
    assert far.distance > 1.15 * near.distance
    return near.colour, near.shape


def turn(scene: Scene, question: WorldQuestion) -> object:
    faced, other = (named(scene, question.slots[name]) for name in ("first", "second"))
    return nearest_sector(other.yaw_deg - faced.yaw_deg)


def pointing(scene: Scene, question: WorldQuestion) -> object:
    item = named(scene, question.slots["object"])
    assert question.typed_answer == {"yaw_deg": item.box_deg[0], "pitch_deg": item.box_deg[1]}
    assert angle(question.answer[0], item.yaw_deg) <= 0.5
    return tuple(whole(item)[:2])


def grounding(scene: Scene, question: WorldQuestion) -> object:
    item = named(scene, question.slots["object"])
    assert question.typed_answer == {"label": item.label, "box_deg": list(item.box_deg)}
    return whole(item)


def detection(scene: Scene, question: WorldQuestion) -> object:
    assert question.typed_answer is not None
    boxes = {(b["label"], tuple(b["box_deg"])) for b in question.typed_answer["objects"]}
    assert boxes == {(o.label, o.box_deg) for o in scene.objects}
    return [((o.colour, o.shape), whole(o)) for o in sorted(scene.objects, key=whole)]


def fits(item: SceneObject, described: tuple[str, object]) -> bool:
    kind, value = described
    if kind == "place":
        # Objects on the ground touch it 1.6 m below the camera; the others float.
        lowest = item.centre[1] - item.height / 2
        return {"ground": abs(lowest + 1.6) < 1e-6, "air": lowest > -1.5}[str(value)]
    return value == {"colour": item.colour, "shape": item.shape, "object": (item.colour, item.shape)}[kind]


def detection_described(scene: Scene, question: WorldQuestion) -> object:
    found = [o for o in scene.objects if fits(o, question.slots["described"])]
    assert 0 < len(found) < len(scene.objects)
    assert question.typed_answer is not None
    assert {(b["label"], tuple(b["box_deg"])) for b in question.typed_answer["objects"]} == {
        (o.label, o.box_deg) for o in found
    }
    return [((o.colour, o.shape), whole(o)) for o in sorted(found, key=whole)]


def description(scene: Scene, question: WorldQuestion) -> object:
    kind, seen = question.answer
    assert Counter(name for name, _ in seen) == Counter((o.colour, o.shape) for o in scene.objects)
    clockwise = sorted(scene.objects, key=lambda o: o.yaw_deg % 360)
    sectors = [min(SECTOR_CENTRES, key=lambda p, o=o: angle(o.yaw_deg, SECTOR_CENTRES[p])) for o in clockwise]
    assert kind == scene.kind
    return scene.kind, [((o.colour, o.shape), sector) for o, sector in zip(clockwise, sectors, strict=True)]


def whole(item: SceneObject) -> list[int]:
    """Return the box in whole degrees, with the yaw in [-180, 180)."""
    yaw = math.floor(item.box_deg[0] + 0.5)
    return [-180 if yaw == 180 else yaw, *(math.floor(v + 0.5) for v in item.box_deg[1:])]


EXPECTED: dict[str, Callable[[Scene, WorldQuestion], object]] = {
    "existence": existence,
    "colour": colour,
    "shape": shape,
    "count": count,
    "direction8": direction8,
    "relation": relation,
    "look": look,
    "nearest": nearest,
    "turn": turn,
    "pointing": pointing,
    "grounding": grounding,
    "detection": detection,
    "detection_described": detection_described,
    "description": description,
}
TASKS = {
    "pointing": "direction",
    "grounding": "grounding",
    "detection": "detection",
    "detection_described": "detection",
    "description": "description",
}


def test_every_type_has_an_expected_answer() -> None:
    assert EXPECTED.keys() == GENERATORS.keys()


@pytest.mark.parametrize("kind", EXPECTED)
def test_answers_follow_from_the_scene(dialogues, kind: str) -> None:
    # Pairs on the ground with clearly different distances are rare.
    assert len(dialogues[kind]) > (50 if kind == "nearest" else 0.75 * SCENES)
    for scene, (question,) in dialogues[kind]:
        assert question.type == kind
        assert question.task == TASKS.get(kind, "choice")
        assert EXPECTED[kind](scene, question) == question.answer


def test_dialogues_refer_back_to_one_object(dialogues) -> None:
    assert len(dialogues["dialogue"]) > 0.75 * SCENES
    for scene, (first, second, third) in dialogues["dialogue"]:
        assert [turn.type for turn in (first, second, third)] == [
            "dialogue_direction8",
            "dialogue_left",
            "dialogue_where",
        ]
        item = named(scene, first.slots["object"])
        assert nearest_sector(item.yaw_deg) == first.answer
        assert not second.slots
        assert not third.slots
        # The first object to the left within 120 degrees.
        steps = sorted(
            ((item.yaw_deg - o.yaw_deg) % 360, (o.colour, o.shape), o.yaw_deg)
            for o in scene.objects
            if o is not item and abs(o.pitch_deg) < 60 and 5 < (item.yaw_deg - o.yaw_deg) % 360 < 120
        )
        _, name, yaw_deg = steps[0]
        assert (name, nearest_sector(yaw_deg)) == (second.answer, third.answer)


def majority(answers: Iterable[str]) -> float:
    counts = Counter(answers)
    return max(counts.values()) / counts.total()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        ("existence", 0.55),
        ("colour", 0.30),
        ("shape", 0.40),
        ("count", 0.40),
        ("direction8", 0.25),
        ("relation", 0.58),
        ("look", 0.12),
        ("turn", 0.30),
        ("nearest", 0.25),
    ],
)
def test_no_answer_is_frequent(dialogues, language: str, kind: str, bound: float) -> None:
    assert majority(answer_text(question, language) for _, (question,) in dialogues[kind]) <= bound


def test_a_question_does_not_hint_at_its_answer(dialogues) -> None:
    # Neither the colour in question, nor the order of two names, nor the counted property hints at the answer.
    by_object = defaultdict(list)
    for _, (question,) in dialogues["existence"]:
        by_object[question.slots["object"][0]].append(question.answer)
    assert all(0.25 < sum(answers) / len(answers) < 0.75 for answers in by_object.values())
    is_first = Counter(question.slots["first"] == question.answer for _, (question,) in dialogues["nearest"])
    assert 0.3 < is_first[True] / is_first.total() < 0.7
    counted = Counter(question.slots["counted"][0] for _, (question,) in dialogues["count"])
    assert min(counted.values()) > 0.2 * SCENES


def test_descriptions_have_every_kind_and_often_fit_several_objects(dialogues) -> None:
    kinds = Counter(question.slots["described"][0] for _, (question,) in dialogues["detection_described"])
    assert kinds.keys() == {"colour", "shape", "object", "place"}
    assert min(kinds.values()) > 0.1 * SCENES
    numbers = Counter(min(len(question.answer), 3) for _, (question,) in dialogues["detection_described"])
    assert numbers.keys() == {1, 2, 3}
    assert min(numbers.values()) > 0.2 * SCENES
    # The number of fitting objects is drawn evenly, so that one is not the most frequent by far.
    large = [len(question.answer) for scene, (question,) in dialogues["detection_described"] if len(scene.objects) >= 7]
    assert majority(map(str, large)) < 0.45


def test_absent_objects_combine_a_present_colour_and_a_present_shape(dialogues) -> None:
    absent = [(scene, question.slots["object"]) for scene, (question,) in dialogues["existence"] if not question.answer]
    hard = [
        name[0] in {o.colour for o in scene.objects} and name[1] in {o.shape for o in scene.objects}
        for scene, name in absent
    ]
    assert sum(hard) / len(hard) > 0.8


def test_sampled_questions_are_distinct_reproducible_and_limited() -> None:
    per_type = dict.fromkeys((*GENERATORS, "dialogue"), 3)
    for index in range(60):
        scene = sample_scene(2, split="test", index=index)
        found = sample_dialogues(scene, Random(index), per_type=per_type)
        assert found == sample_dialogues(scene, Random(index), per_type=per_type)
        counts = Counter(turns[0].type if len(turns) == 1 else "dialogue" for turns in found)
        assert max(counts.values()) <= 3
        assert counts["detection"] == counts["description"] == 1  # there is only one such question
        assert counts["existence"] == 3
        assert all(found.count(turns) == 1 for turns in found)


def test_a_scene_without_unique_objects_gives_fewer_questions() -> None:
    scenes = (sample_scene(0, split="train", index=i) for i in range(5000))
    scene = next(s for s in scenes if len({o.label for o in s.objects}) == 1)
    kinds = {
        turns[0].type
        for turns in sample_dialogues(scene, Random(0), per_type=dict.fromkeys((*GENERATORS, "dialogue"), 2))
    }
    assert kinds == {"existence", "count", "look", "detection", "description"}
