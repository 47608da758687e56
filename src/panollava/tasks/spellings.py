"""Directions and boxes of answers, in the spellings that people and other models use.

Our own are `35, -12` and `red cube [35, -12, 20, 15]; blue ball [..]`. Degree signs, other minus signs and brackets are
read too, and so are names (`yaw=35, pitch=-12`), decimal commas between semicolons, `<box>` and JSON. A text with two
readings, or with anything else in it, is not read. The time is linear in the text.
"""

import re
from collections.abc import Sequence

from panollava.corpus.records import BoxDeg, DirectionDeg
from panollava.tasks.json_boxes import BOX, finite, json_boxes

DIRECTION = BOX[:2]
# Korean names, as the synthetic world's questions have them.
_NAMES = {name: name for name in BOX} | {"요": "yaw", "피치": "pitch", "너비": "width", "폭": "width", "높이": "height"}
_SIGNS = str.maketrans("−–‒‐‑﹣－，、；：（）［］", "-------,,;:()[]")
_BRACKETS = ("()", "[]", "{}")
_TAGS = (("<box>", "</box>"), ("<bbox>", "</bbox>"))
_BULLET = re.compile(r"(?:[-*•]|[0-9]{1,3}[.)])\s+")
# White space is single blanks here.
_NUMBER = r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
_DECIMAL_COMMA = r"([+-]?[0-9]+(?:,[0-9]+)?)"
_UNIT = r" ?(?:°|º|˚|degrees?|deg\.?|도)"
_SEPARATOR = r"(?: ?[,;] ?| )"
_BETWEEN = re.compile(_SEPARATOR)
_NAMED = re.compile(rf"([a-z가-힣]+)(?:_deg)? ?[:=]? ?{_NUMBER}(?:{_UNIT})?")


def _patterns(count: int) -> tuple[re.Pattern[str], ...]:
    """Return the spellings of `count` numbers without names."""
    return (
        re.compile(_SEPARATOR.join([_NUMBER] * count) + f"(?:{_UNIT})?"),
        re.compile(_SEPARATOR.join([_NUMBER + _UNIT] * count)),
        re.compile(" ?; ?".join([_DECIMAL_COMMA] * count)),
        re.compile(" ?[,;]? ?".join([_DECIMAL_COMMA + _UNIT] * count)),
    )


_UNNAMED: dict[tuple[str, ...], tuple[re.Pattern[str], ...]] = {
    names: _patterns(len(names)) for names in (DIRECTION, BOX)
}


def wrapped(yaw_deg: float) -> float:
    """Return a yaw in [-180, 180)."""
    return (yaw_deg + 180) % 360 - 180


def parse_direction(text: str) -> DirectionDeg | None:
    """Return yaw in [-180, 180) and pitch in degrees of a text such as `35, -12`, or None.

    A pitch beyond the poles is no direction.
    """
    numbers = direction_numbers(text)
    if numbers is None or abs(numbers[1]) > 90:
        return None
    return wrapped(numbers[0]), numbers[1]


def parse_box(text: str) -> BoxDeg | None:
    """Return the box (yaw, pitch, width, height) in degrees of a text such as `[35, -12, 20, 15]`, or None.

    A pitch beyond the poles and an extent outside (0, 180) are no box; the yaw is wrapped to [-180, 180).
    """
    return _in_range(box_numbers(text))


def parse_object(part: str) -> tuple[str, BoxDeg] | None:
    """Return label and box of a part such as `red cube [35, -12, 20, 15]`, or None."""
    found = labelled_box(part)
    box = None if found is None else _in_range(found[1])
    return None if found is None or box is None else (found[0], box)


def parse_detection(text: str) -> tuple[list[tuple[str, BoxDeg]], int]:
    """Return the (label, box) pairs of `red cube [..]; blue ball [..]`, and the number of parts that are no such pair.

    Each part between semicolons stands by itself, so one bad part does not spoil the others. A text without any part is
    one bad part; a semicolon at the end is none. A list in another spelling is read as a whole, or not at all.
    """
    parts = [part for part in text.split(";") if part.strip()]
    objects = [found for part in parts if (found := parse_object(part)) is not None]
    bad = max(len(parts), 1) - len(objects)
    listed = labelled_boxes(text) if bad else None
    read = [(label, box) for label, numbers in listed or [] if (box := _in_range(numbers)) is not None]
    return (read, 0) if listed and len(read) == len(listed) else (objects, bad)


def direction_numbers(text: str) -> tuple[float, ...] | None:
    """Return yaw and pitch in degrees as a text spells them, whatever their range, or None."""
    return _numbers(text, DIRECTION)


def box_numbers(text: str) -> tuple[float, ...] | None:
    """Return yaw, pitch, width and height in degrees as a text spells them, whatever their range, or None."""
    found = _numbers(text, BOX)
    listed = json_boxes(text) if found is None else None
    return listed[0][1] if listed and len(listed) == 1 else found


def detection_numbers(text: str) -> list[tuple[str, tuple[float, ...]]] | None:
    """Return labels and numbers of all objects that a text lists, whatever their range; None if it lists none."""
    parts = [part for part in text.split(";") if part.strip()]
    objects = [found for part in parts if (found := labelled_box(part)) is not None]
    return objects if objects and len(objects) == len(parts) else labelled_boxes(text) or None


def labelled_box(part: str) -> tuple[str, tuple[float, ...]] | None:
    """Return label and numbers of one object, such as `door: (35°, −12°, 20°, 15°)`, or None."""
    part = _BULLET.sub("", part.strip(), count=1)
    start = max(part.find(opening) for opening, _ in _TAGS)
    plain = part.translate(_SIGNS)
    start = max(plain.rfind("["), plain.rfind("(")) if start < 0 else start
    label = part[: max(start, 0)].removeprefix("<ref>").rstrip(" :：-").removesuffix("</ref>").strip()
    numbers = box_numbers(part[start:])
    # Brackets and semicolons stand between the objects of an answer.
    return None if not label or set("[];") & set(label) or numbers is None else (label, numbers)


def labelled_boxes(text: str) -> list[tuple[str, tuple[float, ...]]] | None:
    """Return all objects of a text that lists them as JSON, one a line, or with commas between; None for any other."""
    listed = json_boxes(text)
    if listed is not None:
        named = [(label, box) for label, box in listed if label is not None]
        return named if len(named) == len(listed) else None
    for _, closing in _TAGS:
        text = text.replace(closing, f"{closing}\n")
    parts = [part for part in re.split(r"[;\n]|(?<=[\])]),", text) if part.strip(" ,\t")]
    objects = [found for part in parts if (found := labelled_box(part.strip(" ,\t"))) is not None]
    return objects if len(objects) == len(parts) else None


def _in_range(numbers: Sequence[float] | None) -> BoxDeg | None:
    if numbers is None or abs(numbers[1]) > 90 or not all(0 < extent < 180 for extent in numbers[2:]):
        return None
    return wrapped(numbers[0]), numbers[1], numbers[2], numbers[3]


def _numbers(text: str, names: tuple[str, ...]) -> tuple[float, ...] | None:
    plain = " ".join(text.translate(_SIGNS).casefold().split()).removesuffix(".")
    for opening, closing in _TAGS:
        if plain.startswith(opening) and plain.endswith(closing):
            plain = plain[len(opening) : -len(closing)].strip()
    for brackets in _BRACKETS:
        if len(plain) > 1 and plain[0] + plain[-1] == brackets:
            plain = plain[1:-1].strip()
            break
    for pattern in _UNNAMED[names]:
        match = pattern.fullmatch(plain)
        if match is not None:
            return finite([float(number.replace(",", ".")) for number in match.groups()])
    return _named(plain.replace('"', "").replace("'", ""), names)


def _named(plain: str, names: tuple[str, ...]) -> tuple[float, ...] | None:
    """Return the numbers of `yaw=35, pitch=-12`, in any order."""
    found: dict[str, float] = {}
    at = 0
    while len(found) < len(names):
        between = _BETWEEN.match(plain, at) if found else None
        match = _NAMED.match(plain, between.end() if between else at)
        name = _NAMES.get(match[1]) if match else None
        if match is None or name is None or name in found or (found and between is None):
            return None
        found[name], at = float(match[2]), match.end()
    whole = at == len(plain) and found.keys() == set(names)
    return finite([found[name] for name in names]) if whole else None
