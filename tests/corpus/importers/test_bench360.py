"""360Bench: four rotations of the options become one question in seeded order."""

from pathlib import Path

import pytest
from importer_cases import refused, run, write_image

from panollava.corpus.importers import IMPORTERS
from panollava.corpus.importers.common import Request
from panollava.corpus.records import Record

HEADER = "No.\timage_file\tquestion\tcategory\tl2-category\tbbox\tindex\tmulti-choice options\tanswer"
OPTIONS = ["Behind the woman.", "Far from the woman.", "It's left of the woman.", "Right of the woman."]
BOX = '"[{""bbox_2d"": [58, 20, 59, 21],""label"": ""woman""}]"'


def bench_rows(question: str, right: str = OPTIONS[0]) -> list[str]:
    """Return the four published rotations of a question's options, the right one first, second, third, fourth."""
    rows = []
    for shift in range(4):
        options = OPTIONS[4 - shift :] + OPTIONS[: 4 - shift]
        texts = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True)]
        letter = "ABCD"[options.index(right)]
        rows.append(f"{shift}\ta.jpg\t{question}\tSR\tOs\t{BOX}\t#1\t{texts}\t{letter}")
    return rows


def bench_file(tmp_path: Path, rows: list[str]) -> Path:
    write_image(tmp_path / "a.jpg")
    file = tmp_path / "360Bench.tsv"
    file.write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    return file


def chosen(record: Record) -> str:
    """Return the text of the option whose letter is the answer."""
    turn = record.conversations[0]
    assert turn.answer.text == turn.assistant
    (line,) = [line for line in turn.human.split("\n") if line.startswith(f"{turn.assistant}. ")]
    return line[3:]


def test_options_are_permuted_and_the_answer_follows(tmp_path: Path) -> None:
    questions = [f"Where are the tables, seen from {number}?" for number in range(12)]
    file = bench_file(
        tmp_path, [row for number, q in enumerate(questions) for row in bench_rows(q, OPTIONS[number % 4])]
    )
    records, report = run(tmp_path, "bench360", file)
    assert len(records) == 12
    assert [chosen(record) for record in records] == [OPTIONS[number % 4] for number in range(12)]
    assert {record.conversations[0].assistant for record in records} == set("ABCD")
    first = records[0].conversations[0]
    assert (first.task, first.type) == ("choice", "SR-Os")
    assert first.human.startswith(questions[0] + "\nA. ")
    assert sorted(line[3:] for line in first.human.split("\n")[1:5]) == OPTIONS
    assert records[0].metadata["rows"] == [1, 2, 3, 4]
    assert records[0].metadata["boxes_px_7296x3648"] == [{"bbox_2d": [58, 20, 59, 21], "label": "woman"}]
    assert "CC BY 4.0" in records[0].metadata["licence"]
    assert dict(report.dropped) == {"rows that rotate the options of a question": 36}


def test_the_order_of_the_options_depends_on_seed_and_question_only(tmp_path: Path) -> None:
    rows = [row for number in range(12) for row in bench_rows(f"Question {number}?")]
    read = IMPORTERS["bench360"]
    first = [e.fields["conversations"] for e in read(Request(bench_file(tmp_path, rows), seed=3)).entries]
    again = [e.fields["conversations"] for e in read(Request(bench_file(tmp_path, rows[::-1]), seed=3)).entries]
    other = [e.fields["conversations"] for e in read(Request(bench_file(tmp_path, rows), seed=4)).entries]
    assert first == again[::-1]
    assert first != other


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\tA\n", "\tE\n", "answer 'E' to options"),
        ("['A. ", "['", "expected texts that begin with 'A.', 'B.' and so on"),
        ("['A. ", "[3, 'A. ", "expected texts that begin with"),
        ("['A. ", "'A. ", "expected a Python list of texts"),
        ("B. Far from", "B. Behind the woman.', 'C. Far from", "expected texts that begin"),
        ("Far from", "Behind", "expected a letter of options that all differ"),
        ('"[{""bbox_2d', '"[""bbox_2d', "is not JSON"),
        ('"[{""bbox_2d', '"{""bbox_2d', "expected a list of boxes"),
        (BOX, "3", "expected a list of boxes"),
    ],
)
def test_malformed_rows_are_refused_by_number(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = bench_file(tmp_path, bench_rows("Where?")[:1])
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1) + "\n".join(bench_rows("Why?")) + "\n")
    found = refused(tmp_path, "bench360", file)
    assert found.startswith("1 of 5 rows cannot be imported")
    assert "\n  360Bench.tsv line 2: " in found
    assert message in found
    records, report = run(tmp_path, "bench360", file, drop_bad_records=True)
    assert [record.metadata["rows"] for record in records] == [[2, 3, 4, 5]]
    assert "read: 5 rows, imported: 1, left out: 4" in str(report)


@pytest.mark.parametrize("options", ["[" * 9_000, "-" * 9_000 + "1", "['A. ' + 'x', 'B. y']", "9" * 20_000])
def test_hostile_options_are_refused(tmp_path: Path, options: str) -> None:
    file = bench_file(tmp_path, [f"1\ta.jpg\tWhere?\tSR\tOs\t{BOX}\t#1\t{options}\tA"])
    assert "expected a Python list of texts" in refused(tmp_path, "bench360", file)


@pytest.mark.parametrize("box", ["[NaN]", "[" * 50_000, "9" * 5_000])
def test_boxes_that_no_record_can_carry_are_refused(tmp_path: Path, box: str) -> None:
    row = bench_rows("Where?")[0].replace(BOX, box)
    assert "360Bench.tsv line 2: bbox '" in refused(tmp_path, "bench360", bench_file(tmp_path, [row]))
