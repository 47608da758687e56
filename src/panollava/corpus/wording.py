"""Words for questions and scenes in English and Korean: literal tables, and the few rules that Korean particles need.

Texts give directions in whole degrees, yaw to the right and pitch up; a box reads `[yaw, pitch, width, height]`.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from panollava.corpus.questions import Question, box_answer
from panollava.corpus.world.scenes import SceneObject

LANGUAGES = ("en", "ko")

WORDS: dict[str, dict[str, str]] = {
    "en": {w: w for w in ("red", "yellow", "green", "blue", "purple", "white", "cube", "ball", "cone", "cylinder")}
    | {"left": "left", "right": "right", "yes": "yes", "no": "no", "room": "a room", "plaza": "a plaza"}
    | {"ground": "on the ground", "air": "in the air"},
    "ko": {
        "red": "빨간색", "yellow": "노란색", "green": "초록색", "blue": "파란색", "purple": "보라색", "white": "하얀색",
        "cube": "정육면체", "ball": "공", "cone": "원뿔", "cylinder": "원기둥",
        "left": "왼쪽", "right": "오른쪽", "yes": "예", "no": "아니요", "room": "방", "plaza": "광장",
        "ground": "바닥", "air": "공중",
    },
}  # fmt: skip

DIRECTIONS: dict[str, tuple[str, ...]] = {
    "en": ("front", "front right", "right", "back right", "back", "back left", "left", "front left"),
    "ko": ("앞", "오른쪽 앞", "오른쪽", "오른쪽 뒤", "뒤", "왼쪽 뒤", "왼쪽", "왼쪽 앞"),
}

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

# The types whose phrasing hangs on what one of their slots, a pair (kind, value), speaks of.
KINDS = {"count": "counted", "detection_described": "described"}

# The first phrasing of every detection question, around what it asks for.
DETECT = {"en": "Detect {}.", "ko": "{:을} 검출하세요."}

PARTICLES = {"은": ("은", "는"), "이": ("이", "가"), "을": ("을", "를"), "과": ("과", "와")}


class Phrase(str):
    """A Korean noun that takes the right particle when formatted: 공 with `:은` is 공은, 정육면체 is 정육면체는."""

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        after_consonant, after_vowel = PARTICLES[spec]
        ends_in_consonant = (ord(self[-1]) - ord("가")) % 28 != 0
        return f"{self}{after_consonant if ends_in_consonant else after_vowel}"


def label(item: tuple[str, str], language: str) -> Phrase:
    """Return the name of a (colour, shape) pair, such as `red cube`."""
    return Phrase(f"{WORDS[language][item[0]]} {WORDS[language][item[1]]}")


def box_text(box_deg: list[int]) -> str:
    """Return a box as answers spell it: `[35, -12, 20, 15]`."""
    return f"[{', '.join(str(v) for v in box_deg)}]"


def detection_text(objects: Sequence[tuple[str, list[int]]]) -> str:
    """Return labelled boxes as answers spell them: `red cube [35, -12, 20, 15]; blue ball [..]`."""
    return "; ".join(f"{name} {box_text(box_deg)}" for name, box_deg in objects)


def _slot(name: str, value: Any, language: str) -> Any:
    if name in ("yaw", "pitch"):
        return value
    if name in KINDS.values():
        value = value[1]
    return label(value, language) if isinstance(value, tuple) else Phrase(WORDS[language][value])


def template_key(question: Question) -> str:
    """Return the key of a question's phrasings in `TEMPLATES`."""
    slot = KINDS.get(question.type)
    return question.type if slot is None else f"{question.type}_{question.slots[slot][0]}"


def question_text(question: Question, language: str, rng: Random) -> str:
    """Return the question in words, one of its type's phrasings."""
    key = template_key(question)
    slots = {name: _slot(name, value, language) for name, value in question.slots.items()}
    return rng.choice(TEMPLATES[language][key]).format(**slots)


def answer_text(question: Question, language: str) -> str:
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
    kind, seen = answer
    if language == "ko":
        parts = [f"{DIRECTIONS['ko'][place]}에 {label(item, 'ko')}" for item, place in seen]
        return f"{WORDS['ko'][kind]}에 물체가 {len(seen)}개 있습니다: {', '.join(parts)}."
    parts = [f"{label(item, 'en')} at the {DIRECTIONS['en'][place]}" for item, place in seen]
    return f"{WORDS['en'][kind].capitalize()} with {len(seen)} objects: {', '.join(parts)}."


def turn_json(question: Question, language: str, rng: Random) -> dict[str, Any]:
    """Return one turn in the record format of `corpus.records`."""
    text = answer_text(question, language)
    turn: dict[str, Any] = {"human": question_text(question, language, rng), "assistant": text}
    turn |= {"task": question.task, "type": question.type, "language": language}
    typed = {"text": text} if question.task == "choice" else question.typed
    return turn if typed is None else turn | {"answer": typed}


def detection_question(description: str, language: str) -> str:
    """Return the question for all that a description fits: `every red object` in English, `모든 빨간색 물체` in Korean.

    Raises:
        ValueError: a language without such a question, or an empty description.
    """
    if language not in DETECT:
        raise ValueError(f"language {language!r}: detection can be asked for in {', '.join(DETECT)}")
    if not description.strip():
        raise ValueError("the description is empty; say what to detect, such as 'every red object'")
    return DETECT[language].format(Phrase(description.strip()))


def object_text(item: SceneObject, language: str) -> str:
    """Return one object told in words and degrees: `red cube [35, -12, 20, 15]`."""
    return f"{label((item.colour, item.shape), language)} {box_text(box_answer(item))}"
