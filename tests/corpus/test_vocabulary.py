"""The words of the synthetic world: the same in both languages, with the right Korean particles."""

import pytest

from panollava.corpus.vocabulary import DIRECTIONS, LANGUAGES, WORDS, Phrase, label
from panollava.corpus.world.scenes import COLOURS, SHAPES


def test_both_languages_have_the_same_words() -> None:
    assert WORDS["en"].keys() == WORDS["ko"].keys() >= {*COLOURS, *SHAPES}
    assert len(set(DIRECTIONS["en"])) == len(set(DIRECTIONS["ko"])) == 8
    for language in LANGUAGES:
        assert len(set(WORDS[language].values())) == len(WORDS[language])


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("공", {"은": "공은", "이": "공이", "을": "공을", "과": "공과"}),
        ("정육면체", {"은": "정육면체는", "이": "정육면체가", "을": "정육면체를", "과": "정육면체와"}),
        ("원뿔", {"은": "원뿔은", "이": "원뿔이", "을": "원뿔을", "과": "원뿔과"}),
        ("원기둥", {"은": "원기둥은", "이": "원기둥이", "을": "원기둥을", "과": "원기둥과"}),
        ("카메라", {"은": "카메라는", "이": "카메라가", "을": "카메라를", "과": "카메라와"}),
    ],
)
def test_a_noun_takes_the_right_particle(word: str, forms: dict[str, str]) -> None:
    for particle, wanted in forms.items():
        assert format(Phrase(word), particle) == wanted
    assert f"{Phrase(word)}" == word


def test_directions_are_in_clockwise_order() -> None:
    for language, (right, left) in {"en": ("right", "left"), "ko": ("오른쪽", "왼쪽")}.items():
        names = DIRECTIONS[language]
        assert (names[2], names[6]) == (right, left)
        assert all(right in names[sector] for sector in (1, 2, 3))
        assert all(left in names[sector] for sector in (5, 6, 7))
        assert all(names[0] in names[sector] for sector in (1, 7))
        assert all(names[4] in names[sector] for sector in (3, 5))


def test_labels_name_colour_and_shape() -> None:
    assert label(("red", "cube"), "en") == "red cube"
    assert f"{label(('red', 'cube'), 'ko'):이}" == "빨간색 정육면체가"
