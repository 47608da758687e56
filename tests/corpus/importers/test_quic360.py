"""QuIC-360: tables of captions by image and query, with and without splits."""

from pathlib import Path

import pytest
from importer_cases import refused, run, write_image, write_json, write_table

from panollava.corpus.importers import IMPORTERS
from panollava.corpus.importers.common import Request

CAPTIONS = [
    ("https://live.staticflickr.com/65535/a_o.jpg", "weather", "None"),
    ("https://live.staticflickr.com/65535/b_o.jpg", "people", "Three people, \\'walking\\'."),
    ("https://live.staticflickr.com/65535/a_o.jpg", "weather", "Snow lies\u2028on the roofs."),
    ("https://live.staticflickr.com/65535/a_o.jpg", "people", "Nobody is here."),
]


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    for name in ("a_o.jpg", "b_o.jpg"):
        write_image(tmp_path / "flickr" / name)
    return tmp_path / "flickr"


@pytest.mark.parametrize(("name", "separator"), [("train.tsv", "\t"), ("train.csv", ",")])
def test_captions_of_one_image_and_query_form_one_record(
    tmp_path: Path, flickr: Path, name: str, separator: str
) -> None:
    # CORA's CSV has local paths where the TSV has links.
    rows = [(str(flickr / url.split("/")[-1]) if separator == "," else url, *rest) for url, *rest in CAPTIONS]
    records, report = run(tmp_path, "quic360", write_table(tmp_path / name, rows, separator), images=flickr)
    turns = [record.conversations[0] for record in records]
    assert [record.image_id for record in records] == ["a_o.jpg", "b_o.jpg", "a_o.jpg"]
    assert [turn.references for turn in turns] == [["None", CAPTIONS[2][2]], [CAPTIONS[1][2]], [CAPTIONS[3][2]]]
    assert turns[0].assistant == "None"
    assert "weather" in turns[0].human
    assert [record.metadata["query"] for record in records] == ["weather", "people", "people"]
    assert "placeholder" in records[0].metadata["licence"]
    assert report.images == 2
    assert sorted(file.name for file in (tmp_path / "out/images").iterdir()) == ["a_o.jpg", "b_o.jpg"]
    assert (tmp_path / "out/images/a_o.jpg").read_bytes() == (flickr / "a_o.jpg").read_bytes()


def test_files_of_a_folder_name_the_splits(tmp_path: Path, flickr: Path) -> None:
    for name, rows in (
        ("train", CAPTIONS[1:2]),
        ("valid", CAPTIONS[:1]),
        ("test", CAPTIONS[3:]),
        ("test-refer", CAPTIONS),
    ):
        write_table(tmp_path / f"raw/{name}.tsv", rows)
    records, report = run(tmp_path, "quic360", tmp_path / "raw", images=flickr)
    assert [record.metadata["split"] for record in records] == ["train", "validation", "test"]
    assert "left out: 1 file test-refer.tsv, which is no split" in str(report)
    (tmp_path / "raw/valid.tsv").unlink()
    with pytest.raises(ValueError, match=r"raw: found 0 of valid\.tsv and valid\.csv; expected exactly one"):
        IMPORTERS["quic360"](Request(tmp_path / "raw"))


def test_a_malformed_table_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_bytes("url\tquery\tannotation\na.jpg\tcafé\tA room.\n".encode("latin-1"))
    assert f"{file}: line 2: byte 0xe9 is not UTF-8" in refused(tmp_path, "quic360", file)
    file.write_text("url\tquery\tannotation\n")
    assert "holds no record" in refused(tmp_path, "quic360", file)
    assert "expected an annotation file *.tsv or *.csv" in refused(tmp_path, "quic360", tmp_path / "no.tsv")
    assert "expected an annotation file *.tsv or *.csv" in refused(
        tmp_path, "quic360", write_json(tmp_path / "a.json", 1)
    )


def test_empty_cells_are_refused_or_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    rows = [("a.png", "art", "  "), ("a.png", "", "A wall."), ("", "art", "A wall."), ("a.png", "art", "A wall.")]
    file = write_table(tmp_path / "train.tsv", rows)
    message = refused(tmp_path, "quic360", file)
    assert "1 rows with an empty annotation:\n  train.tsv line 2: the cell annotation is empty" in message
    assert "1 rows with an empty query:\n  train.tsv line 3:" in message
    assert "1 rows with a bad image name:\n  train.tsv line 4: image ''; expected the path of a file" in message
    records, report = run(tmp_path, "quic360", file, drop_bad_records=True)
    assert [record.conversations[0].references for record in records] == [["A wall."]]
    assert "read: 4 rows, imported: 1, left out: 3" in str(report)
