"""Words of the synthetic world in English and Korean, boxes as text, and the few rules that Korean particles need.

Texts give directions in whole degrees, yaw to the right and pitch up; a box reads `[yaw, pitch, width, height]`.
"""

from collections.abc import Sequence

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

PARTICLES = {"은": ("은", "는"), "이": ("이", "가"), "을": ("을", "를"), "과": ("과", "와")}


class Phrase(str):
    """A noun that takes the right Korean particle when formatted: with `:은`, 공 is 공은 and 정육면체 is 정육면체는."""

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
    """Return a box as answers write it: `[35, -12, 20, 15]`."""
    return f"[{', '.join(str(v) for v in box_deg)}]"


def detection_text(objects: Sequence[tuple[str, list[int]]]) -> str:
    """Return labelled boxes as answers write them: `red cube [35, -12, 20, 15]; blue ball [..]`."""
    return "; ".join(f"{name} {box_text(box_deg)}" for name, box_deg in objects)
