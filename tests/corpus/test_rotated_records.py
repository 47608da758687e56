"""Rotated records against records of the rotated scene, and the rule for turns that are left out."""

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from panollava.corpus.records import DetectionAnswer, LabelledBox, Record, Turn
from panollava.corpus.rotation.panorama import Rotation
from panollava.corpus.rotation.rewording import AMBIGUOUS, CONTRADICTED, REWORDERS, PlacedObject, subject
from panollava.corpus.rotation.rotated_records import rotated_record
from panollava.corpus.vocabulary import LANGUAGES
from panollava.corpus.wording import turn_json
from panollava.corpus.world.scenes import Scene, sample_scene
from panollava.corpus.world_questions import GENERATORS, WorldQuestion, dialogue
from panollava.tasks.robustness.questions import rotated_questions

SCENES = [sample_scene(7, split="test", index=index) for index in range(60)]
# Generators that choose an object by its direction; in the rotated scene they choose another one.
CHOOSE_BY_DIRECTION = ("direction8", "description")
OBJECTS = [
    {"label": "red cube", "box_deg": [10.0, 5.0, 20.0, 20.0]},
    {"label": "blue ball", "box_deg": [60.0, -10.0, 15.0, 15.0]},
    {"label": "red cone", "box_deg": [-85.0, 50.0, 12.0, 16.0]},
]


def rotated_scene(scene: Scene, rotation: Rotation) -> Scene:
    objects = []
    for item in scene.objects:
        box = rotation.box(item.box_deg)
        objects.append(replace(item, yaw_deg=box[0], pitch_deg=box[1], box_deg=box))
    return replace(scene, objects=tuple(objects))


def record(scene: Scene, questions: list[WorldQuestion], language: str) -> Record:
    turns = [turn_json(question, language, Random("words")) for question in questions]
    objects = [{"label": o.label, "box_deg": list(o.box_deg)} for o in scene.objects]
    shared = {"image_id": "p", "image_path": "p.png", "objects": objects}
    return Record.model_validate(shared | {"conversations": turns})


def rotated(stored: Record, rotation: Rotation) -> tuple[Record | None, list[str]]:
    return rotated_record(stored, rotation, [PlacedObject(o.label, o.box_deg) for o in stored.objects])


def same(found: Turn, wanted: Turn) -> bool:
    """Return whether two turns are equal, with angles equal up to rounding."""
    if found.model_dump(exclude={"answer"}) != wanted.model_dump(exclude={"answer"}):
        return False
    if isinstance(found.answer, LabelledBox) and isinstance(wanted.answer, LabelledBox):
        return found.answer.label == wanted.answer.label and found.answer.box_deg == pytest.approx(
            wanted.answer.box_deg
        )
    if isinstance(found.answer, DetectionAnswer) and isinstance(wanted.answer, DetectionAnswer):
        boxes = ([(o.label, *map(pytest.approx, o.box_deg)) for o in found.answer.objects], wanted.answer.objects)
        return boxes[0] == [(o.label, *o.box_deg) for o in boxes[1]]
    return found.answer == wanted.answer or found.model_dump()["answer"] == pytest.approx(wanted.model_dump()["answer"])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "rotation", [Rotation(), Rotation(45), Rotation(67.5), Rotation(-112.5), Rotation(181.3)], ids=str
)
def test_a_rotated_question_is_the_question_of_the_rotated_scene(rotation: Rotation, language: str) -> None:
    seen: Counter[str] = Counter()
    for index, scene in enumerate(SCENES):
        moved = rotated_scene(scene, rotation)
        for kind in GENERATORS.keys() - set(CHOOSE_BY_DIRECTION):
            original, wanted = (GENERATORS[kind](s, Random(f"{kind}/{index}")) for s in (scene, moved))
            if original is None or wanted is None:
                assert original is wanted, kind
                continue
            found, reasons = rotated(record(scene, [original], language), rotation)
            assert found is not None, reasons
            (expected,) = record(moved, [wanted], language).conversations
            assert same(found.conversations[0], expected), (found.conversations[0], expected)
            seen[kind] += 1
    assert len(seen) == len(GENERATORS) - len(CHOOSE_BY_DIRECTION)
    assert min(seen.values()) >= 5, seen


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("yaw_deg", [0, 45, 180, -90])
def test_a_rotated_dialogue_is_the_dialogue_of_the_rotated_scene(yaw_deg: float, language: str) -> None:
    # A yaw of whole sectors keeps every object as unambiguous as before, so the generator draws the same ones.
    seen = 0
    for index, scene in enumerate(SCENES):
        moved = rotated_scene(scene, Rotation(yaw_deg))
        original, wanted = (dialogue(s, Random(index)) for s in (scene, moved))
        if original:
            found, reasons = rotated(record(scene, original, language), Rotation(yaw_deg))
            assert found is not None and not reasons
            assert found.conversations == record(moved, wanted, language).conversations
            seen += 1
    assert seen > 20


@pytest.mark.parametrize(
    "rotation", [Rotation(22.5), Rotation(45), Rotation(tilt_deg=10), Rotation(tilt_deg=30)], ids=str
)
def test_directions_are_those_of_the_rotated_objects_or_left_out(rotation: Rotation) -> None:
    names = ["front", "front right", "right", "back right", "back", "back left", "left", "front left"]
    counts: Counter[str] = Counter()
    for index, scene in enumerate(SCENES):
        question = GENERATORS["direction8"](scene, Random(index))
        if question is None:
            continue
        stored = record(scene, [question], "en")
        (item,) = [o for o in scene.objects if o.label in stored.conversations[0].human]
        yaw, pitch = rotation.direction(item.yaw_deg, item.pitch_deg)
        sector = round(yaw / 45)
        clear = abs(yaw - 45 * sector) <= 18.5 and abs(pitch) < 60
        found, reasons = rotated(stored, rotation)
        assert (found is not None) == clear
        assert reasons == ([] if clear else [AMBIGUOUS])
        if found is not None:
            assert found.conversations[0].assistant == names[sector % 8]
        counts[str(clear)] += 1
    assert counts["True"] > 20
    assert rotation == Rotation(45) or counts["False"] > 2


@pytest.mark.parametrize("tilt_deg", [5, 10, 30, -30])
def test_a_tilted_question_is_the_question_of_the_tilted_scene(tilt_deg: float) -> None:
    for kind in ("relation", "turn", "look", "grounding", "pointing"):
        compare_with_tilted_scene(kind, tilt_deg)


def compare_with_tilted_scene(kind: str, tilt_deg: float) -> None:
    """Compare the rotated questions of a type with those that the tilted scenes give."""
    rotation, compared, changed = Rotation(tilt_deg=tilt_deg), 0, 0
    for index, scene in enumerate(SCENES):
        tilted = rotated_scene(scene, rotation)
        original, wanted = (GENERATORS[kind](s, Random(f"{kind}/{index}")) for s in (scene, tilted))
        if original is None or wanted is None:
            continue
        stored, expected = record(scene, [original], "en"), record(tilted, [wanted], "en").conversations[0]
        found, _ = rotated(stored, rotation)
        # Objects too near a pole are not candidates in the tilted scene, so the draw may choose other ones.
        if found is not None and (kind == "look" or found.conversations[0].human == expected.human):
            assert same(found.conversations[0], expected)
            compared += 1
            changed += found.conversations[0] != stored.conversations[0]
    assert compared > 20, kind
    # Such small tilts hardly ever move an object to the other side of the one that is faced.
    assert changed or abs(tilt_deg) < 30 or kind == "relation", kind


def test_two_yaws_equal_their_sum() -> None:
    for index, scene in enumerate(SCENES[:30]):
        drawn = [generate(scene, Random(index)) for generate in GENERATORS.values()]
        for question in drawn:
            if question is None:
                continue
            stored = record(scene, [question], "ko")
            once, _ = rotated(stored, Rotation(202.5))
            first, _ = rotated(stored, Rotation(45))
            twice = None if first is None else rotated(first, Rotation(157.5))[0]
            if once is not None and first is not None:
                assert twice is not None
                assert same(twice.conversations[0], once.conversations[0])


def user(turns: list[dict[str, Any]], objects: list[dict[str, Any]] = OBJECTS) -> Record:
    return Record.model_validate({"image_id": "p", "image_path": "p.png", "conversations": turns, "objects": objects})


def choice(human: str, text: str, **fields: Any) -> dict[str, Any]:
    return {"human": human, "assistant": text, "task": "choice", "answer": {"text": text}} | fields


@pytest.mark.parametrize(
    "turn",
    [
        choice("Is it day or night?", "day"),
        choice("How many people are there?", "12"),
        choice("What colour is the floor?", "brown", type="floor", references=["brown", "wood"]),
        {"human": "Describe the room.", "assistant": "A bright kitchen with 3 chairs."},
        choice("방에 의자가 있나요?", "예", language="ko"),
    ],
    ids=lambda turn: turn["human"],
)
def test_a_turn_without_directions_is_kept(turn: dict[str, Any]) -> None:
    stored = user([turn])
    found, reasons = rotated(stored, Rotation(100, 10))
    assert not reasons
    assert found is not None and found.conversations == stored.conversations


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (choice("What is behind me?", "a door"), "names a direction"),
        (choice("Where is the door?", "on your left"), "names a direction"),
        (choice("Where is the door?", "there", assistant="Straight ahead."), "names a direction"),
        (choice("Which window is at 90 degrees?", "the blue one"), "names a direction or a number"),
        (choice("Pick. A. up B. down", "A"), "names a direction"),
        (choice("문은 어디에 있나요?", "왼쪽", language="ko"), "names a direction"),
        (choice("Où est la porte ?", "ici", language="fr"), "language fr"),
        ({"human": "Describe.", "assistant": "A door on the left."}, "names a direction"),
        ({"human": "Box of the chair in front?", "assistant": "[1, 2, 3, 4]", "task": "grounding",
          "answer": {"label": "chair", "box_deg": [1, 2, 3, 4]}}, "names a direction"),
        (choice("Which way is the red cube?", "left", type="direction8"), CONTRADICTED),
        (choice("Which way is the red chair?", "left", type="direction8"), CONTRADICTED),
        (choice("Which way is the red cube?", "devant", type="direction8", language="fr"), "language fr"),
        (choice("And to its left?", "red cone", type="dialogue_left"), CONTRADICTED),
        (choice("What is at yaw 11, pitch 5?", "red cube", type="look"), CONTRADICTED),
        (choice("Is the red cube or the blue ball to the side?", "red cube", type="relation"), CONTRADICTED),
        ({"human": "Which way?", "assistant": "left", "type": "direction8"}, "no choice"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["human"] + " " + value["assistant"],
)  # fmt: skip
def test_a_turn_that_cannot_be_rotated_is_left_out_with_its_reason(turn: dict[str, Any], reason: str) -> None:
    found, reasons = rotated(user([turn]), Rotation(100))
    assert found is None
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_typed_answers_and_objects_of_own_records_are_rotated() -> None:
    stored = user([
        choice("Which way is the blue ball?", "front right", type="direction8"),
        {"human": "Point at the lamp.", "assistant": "It is at 170, 20!", "task": "direction",
         "answer": {"yaw_deg": 170.4, "pitch_deg": 20}},
        {"human": "Box of the cat?", "assistant": "[170, 20, 8, 9]", "task": "grounding", "references":
         ["[170, 20, 8, 9]"], "answer": {"label": "cat", "box_deg": [170, 20, 8, 9]}},
        {"human": "All cats?", "assistant": "none", "task": "detection", "answer": {"objects": []}},
    ])  # fmt: skip
    found, reasons = rotated(stored, Rotation(90))
    assert found is not None and not reasons
    texts = [turn.assistant for turn in found.conversations]
    assert texts == ["back right", "-100, 20", "[-100, 20, 8, 9]", "none"]
    assert found.conversations[1].model_dump()["answer"] == pytest.approx({"yaw_deg": -99.6, "pitch_deg": 20})
    assert found.conversations[2].references == []
    assert [o.box_deg for o in found.objects] == [Rotation(90).box(o.box_deg) for o in stored.objects]


def test_a_dialogue_ends_before_the_first_turn_left_out_and_the_rest_is_counted() -> None:
    turns = [
        choice("Is it day?", "yes", type="day"), choice("What is behind me?", "a door", type="free"),
        choice("What colour is it?", "red", type="colour"),
    ]  # fmt: skip
    lone = user([choice("Is it day?", "no", type="day")], objects=[])
    questions, left_out = rotated_questions("p", [user(turns), lone], Rotation(30))
    assert [(q.record, q.turn, q.content.assistant) for q in questions] == [(0, 0, "yes"), (1, 0, "no")]
    assert left_out == {
        "free: names a direction or a number": 1, "colour: follows a turn that is left out": 1,
    }  # fmt: skip


def test_the_history_of_a_rotated_dialogue_is_rotated() -> None:
    stored = user([
        choice("Which way is the blue ball?", "front right", type="dialogue_direction8"),
        choice("And what is to the left of it?", "red cube", type="dialogue_left"),
        choice("In which direction is that?", "front", type="dialogue_where"),
    ])  # fmt: skip
    questions, _ = rotated_questions("p", [stored], Rotation(180))
    answers = [m["content"][-1]["text"] for m in questions[-1].messages if m["role"] == "assistant"]
    assert answers == ["back left", "red cube"]
    assert questions[-1].content.assistant == "back"


@pytest.mark.parametrize(
    ("turn", "where"),
    [
        (choice("What colour is the cube?", "red"), (10, 5)),
        (choice("What shape is the blue object?", "ball"), (60, -10)),
        (choice("Is there a red cone?", "yes"), (-85, 50)),
        (choice("Is there a blue cone?", "no"), None),
        (choice("빨간색 정육면체는 어느 방향에 있나요?", "앞", language="ko"), (10, 5)),
        (choice("Which is nearer, the red cube or the blue ball?", "red cube"), None),
        (choice("How many red objects?", "2"), None),
        (choice("Are there cubes that are red?", "yes"), None),
        (
            {"human": "Where?", "assistant": "1, 2", "task": "direction", "answer": {"yaw_deg": 1, "pitch_deg": 2}},
            (1, 2),
        ),
        ({"human": "Describe the red cube.", "assistant": "red"}, None),
    ],
    ids=lambda value: value["human"] if isinstance(value, dict) else None,
)
def test_the_subject_is_the_only_object_that_a_question_names(
    turn: dict[str, Any], where: tuple[float, float] | None
) -> None:
    stored = user([turn])
    assert subject(stored.conversations[0], [PlacedObject(o.label, o.box_deg) for o in stored.objects]) == where


def test_reworded_types_are_types_of_the_world() -> None:
    assert set(REWORDERS) - {"dialogue_direction8", "dialogue_left", "dialogue_where"} < set(GENERATORS)
