"""Put questions and answers about synthetic scenes into English and Korean, from literal tables of phrasings."""

from random import Random
from typing import Any

from panollava.corpus.vocabulary import DIRECTIONS, WORDS, Phrase, box_text, detection_text, label
from panollava.corpus.world.scenes import SceneObject
from panollava.corpus.world_questions import WorldQuestion, box_answer

TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "existence": ("Is there a {object}?", "Do you see a {object}?"),
        "colour": ("What colour is the {shape}?", "Which colour does the {shape} have?"),
        "shape": ("What shape is the {colour} object?", "Which shape does the {colour} object have?"),
        "count_colour": ("How many {counted} objects are there?", "Count the {counted} objects."),
        "count_shape": ("How many objects are a {counted}?", "Count the objects that are a {counted}."),
        "direction8": ("In which direction is the {object}?", "Which way is the {object}?"),
        "relation": (
            "Is the {first} to the left or to the right of the {second}?",
            "Facing the {second}, is the {first} on your left or on your right?",
        ),
        "look": ("What is at yaw {yaw}, pitch {pitch}?", "Which object is at yaw {yaw}, pitch {pitch}?"),
        "nearest": ("Which is nearer, the {first} or the {second}?", "Is the {first} or the {second} closer to you?"),
        "turn": ("Facing the {first}, in which direction is the {second}?",),
        "pointing": ("Where is the {object}, in degrees?", "Point at the {object} in degrees."),
        "grounding": ("Give the box of the {object}.", "Which box holds the {object}?"),
        "detection": ("Detect every object.", "List all objects with their boxes."),
        "detection_described_colour": (
            "Detect every {described} object.",
            "List all {described} objects with their boxes.",
        ),
        "detection_described_shape": ("Detect every {described}.", "List every {described} with its box."),
        "detection_described_object": ("Detect every {described}.", "List every {described} with its box."),
        "detection_described_place": (
            "Detect everything {described}.",
            "List all objects {described} with their boxes.",
        ),
        "description": ("Describe the panorama.", "What does the panorama show?"),
        "dialogue_direction8": ("In which direction is the {object}?", "Which way is the {object}?"),
        "dialogue_left": ("And what is to the left of it?", "And what comes next to its left?"),
        "dialogue_where": ("In which direction is that?", "Which way is that?"),
    },
    "ko": {
        "existence": ("{object:이} 있나요?", "{object:이} 보이나요?"),
        "colour": ("{shape:은} 무슨 색인가요?", "{shape}의 색은 무엇인가요?"),
        "shape": ("{colour} 물체는 어떤 모양인가요?", "{colour} 물체의 모양은 무엇인가요?"),
        "count_colour": ("{counted} 물체는 몇 개인가요?", "{counted} 물체의 수를 세어 주세요."),
        "count_shape": ("{counted:은} 몇 개인가요?", "{counted}의 수를 세어 주세요."),
        "direction8": ("{object:은} 어느 방향에 있나요?", "{object}의 방향은 어디인가요?"),
        "relation": (
            "{first:은} {second}의 왼쪽에 있나요, 오른쪽에 있나요?",
            "{second:을} 바라볼 때 {first:은} 왼쪽인가요, 오른쪽인가요?",
        ),
        "look": ("요 {yaw}, 피치 {pitch}에 무엇이 있나요?", "요 {yaw}, 피치 {pitch}에 있는 물체는 무엇인가요?"),
        "nearest": ("{first:과} {second} 중 어느 것이 더 가까운가요?",),
        "turn": ("{first:을} 바라볼 때 {second:은} 어느 방향에 있나요?",),
        "pointing": ("{object:은} 몇 도에 있나요?", "{object}의 위치를 도로 알려 주세요."),
        "grounding": ("{object}의 상자를 알려 주세요.", "{object:을} 담는 상자는 무엇인가요?"),
        "detection": ("모든 물체를 검출하세요.", "모든 물체와 상자를 나열하세요."),
        "detection_described_colour": (
            "모든 {described} 물체를 검출하세요.",
            "모든 {described} 물체와 상자를 나열하세요.",
        ),
        "detection_described_shape": ("모든 {described:을} 검출하세요.", "모든 {described:과} 상자를 나열하세요."),
        "detection_described_object": ("모든 {described:을} 검출하세요.", "모든 {described:과} 상자를 나열하세요."),
        "detection_described_place": (
            "{described}에 있는 모든 물체를 검출하세요.",
            "{described}에 있는 모든 물체와 상자를 나열하세요.",
        ),
        "description": ("이 파노라마를 설명해 주세요.", "이 파노라마에는 무엇이 있나요?"),
        "dialogue_direction8": ("{object:은} 어느 방향에 있나요?", "{object}의 방향은 어디인가요?"),
        "dialogue_left": ("그럼 그 왼쪽에는 무엇이 있나요?", "그 왼쪽 옆에는 무엇이 있나요?"),
        "dialogue_where": ("그것은 어느 방향에 있나요?", "그것의 방향은 어디인가요?"),
    },
}

# Types with phrasings for each kind of one slot, whose value is a pair (kind, value).
KINDS = {"count": "counted", "detection_described": "described"}

# The first phrasing of every detection question, around the description of the objects.
DETECT = {"en": "Detect {}.", "ko": "{:을} 검출하세요."}


def _slot(name: str, value: Any, language: str) -> Any:
    if name in ("yaw", "pitch"):
        return value
    if name in KINDS.values():
        value = value[1]
    return label(value, language) if isinstance(value, tuple) else Phrase(WORDS[language][value])


def template_key(question: WorldQuestion) -> str:
    """Return the key of a question's phrasings in `TEMPLATES`."""
    slot = KINDS.get(question.type)
    return question.type if slot is None else f"{question.type}_{question.slots[slot][0]}"


def question_text(question: WorldQuestion, language: str, rng: Random) -> str:
    """Return the question in words, in a random phrasing of its type."""
    key = template_key(question)
    slots = {name: _slot(name, value, language) for name, value in question.slots.items()}
    return rng.choice(TEMPLATES[language][key]).format(**slots)


def answer_text(question: WorldQuestion, language: str) -> str:
    """Return the answer in words."""
    kind, answer = question.type.removeprefix("dialogue_"), question.answer
    if kind == "existence":
        return WORDS[language]["yes" if answer else "no"]
    if kind in ("direction8", "turn", "where"):
        return DIRECTIONS[language][answer]
    if kind in ("look", "nearest", "left"):
        return label(answer, language)
    if kind == "pointing":
        return f"{answer[0]}, {answer[1]}"
    if kind == "grounding":
        return box_text(answer)
    if kind in ("detection", "detection_described"):
        return detection_text([(label(item, language), box) for item, box in answer])
    if kind == "description":
        return _description(answer, language)
    return str(answer) if kind == "count" else WORDS[language][answer]


def _description(answer: tuple[str, list[tuple[tuple[str, str], int]]], language: str) -> str:
    kind, items = answer
    if language == "ko":
        parts = [f"{DIRECTIONS['ko'][sector]}에 {label(item, 'ko')}" for item, sector in items]
        return f"{WORDS['ko'][kind]}에 물체가 {len(items)}개 있습니다: {', '.join(parts)}."
    parts = [f"{label(item, 'en')} at the {DIRECTIONS['en'][sector]}" for item, sector in items]
    return f"{WORDS['en'][kind].capitalize()} with {len(items)} objects: {', '.join(parts)}."


def turn_json(question: WorldQuestion, language: str, rng: Random) -> dict[str, Any]:
    """Return one turn in the record format of `corpus.records`."""
    text = answer_text(question, language)
    turn: dict[str, Any] = {"human": question_text(question, language, rng), "assistant": text}
    turn |= {"task": question.task, "type": question.type, "language": language}
    typed = {"text": text} if question.task == "choice" else question.typed_answer
    return turn if typed is None else turn | {"answer": typed}


def detection_question(description: str, language: str) -> str:
    """Return the question for all objects of a description, such as `every red object` or `모든 빨간색 물체`.

    Raises:
        ValueError: the language has no such question, or the description is empty.
    """
    if language not in DETECT:
        raise ValueError(f"language {language!r}: detection questions exist in {', '.join(DETECT)}")
    if not description.strip():
        raise ValueError("the description is empty; say what to detect, such as 'every red object'")
    return DETECT[language].format(Phrase(description.strip()))


def object_text(item: SceneObject, language: str) -> str:
    """Return one object in words and degrees: `red cube [35, -12, 20, 15]`."""
    return f"{label((item.colour, item.shape), language)} {box_text(box_answer(item))}"
