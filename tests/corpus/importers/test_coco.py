"""COCO detection: 360-Indoor in degrees, PANDORA in radians, and annotations that are left out."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from importer_cases import refused, run, write_image, write_json

from panollava.tasks.spellings import parse_box, parse_detection


def coco_file(tmp_path: Path, *boxes: tuple[int, int, list[float]], **changes: Any) -> Path:
    """Write images 1 and 2, categories 5 chair and 9 door, and the boxes (image, category, bbox)."""
    for name in ("1.png", "2.png"):
        write_image(tmp_path / "images" / name)
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": 1.0, "iscrowd": 0}
        for number, (image, category, bbox) in enumerate(boxes)
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 16, "height": 8} for n in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": 5, "name": "chair"}, {"id": 9, "name": "door"}],
    }
    return write_json(tmp_path / "annotations/train.json", content | changes)


def test_360_indoor_boxes_are_degrees_from_the_left_and_the_zenith(tmp_path: Path) -> None:
    file = coco_file(
        tmp_path,
        (1, 5, [270.0, 60, 20.4, 10]),
        (1, 5, [0, 90, 0.3, 10]),
        (1, 9, [180, 120, 40, 50]),
        (2, 9, [9, 9, 9, 9]),
    )
    records, report = run(tmp_path, "coco", file, images=tmp_path / "images")
    assert [record.image_id for record in records] == ["1.png", "1.png", "1.png", "2.png", "2.png"]
    boxes = [(item.label, item.box_deg) for item in records[0].objects]
    assert boxes == [("chair", (90, 30, 20.4, 10)), ("chair", (-180, 0, 0.3, 10)), ("door", (0, -30, 40, 50))]
    detection = records[0].conversations[0]
    assert detection.task == "detection"
    # In the order and the whole degrees of the project's own answers; no side is rounded to nothing.
    assert detection.assistant == "chair [-180, 0, 1, 10]; door [0, -30, 40, 50]; chair [90, 30, 20, 10]"
    found, unparsed = parse_detection(detection.assistant)
    assert (len(found), unparsed) == (3, 0)
    assert [item.box_deg for item in detection.answer.objects] == [
        (-180, 0, 0.3, 10),
        (0, -30, 40, 50),
        (90, 30, 20.4, 10),
    ]
    grounding = records[1].conversations[0]
    assert (grounding.task, grounding.answer.label) == ("grounding", "door")
    assert parse_box(grounding.assistant) == (0, -30, 40, 50)
    described = records[2].conversations[0]
    assert (described.task, described.type) == ("detection", "detection_described")
    assert described.human in ("Detect every chair.", "List every chair with its box.")
    assert described.assistant == "chair [-180, 0, 1, 10]; chair [90, 30, 20, 10]"
    assert [item.label for item in described.answer.objects] == ["chair"] * 2
    assert "360-Indoor" in records[0].metadata["source"]
    assert not records[1].objects
    assert str(report).endswith("left out: nothing")


def test_pandora_boxes_are_radians_and_rotated_ones_get_an_upright_box_around_them(tmp_path: Path) -> None:
    file = coco_file(tmp_path, (1, 5, [-1.5, 0.5, 30, 10, 0]), (2, 9, [math.pi, -0.25, 30, 10, 90]))
    records, _ = run(tmp_path, "coco", file, images=tmp_path / "images")
    plain, rotated = records[0].objects[0].box_deg, records[2].objects[0].box_deg
    assert plain == pytest.approx((math.degrees(-1.5), math.degrees(0.5), 30, 10))
    assert rotated == pytest.approx((180, math.degrees(-0.25), 10, 30))
    published = records[2].metadata["rotated_boxes_deg"]
    assert published == [pytest.approx([180, math.degrees(-0.25), 30, 10, 90])]
    assert "PANDORA" in records[0].metadata["source"]


def changed(file: Path, *annotations: dict[str, Any]) -> Path:
    """Change the annotations of a file in order."""
    content = json.loads(file.read_text())
    for row, changes in zip(content["annotations"], annotations, strict=False):
        row |= changes
    file.write_text(json.dumps(content))
    return file


GOOD = (1, 5, [1, 90, 20, 10])


def test_annotations_that_are_left_out_are_counted(tmp_path: Path) -> None:
    file = coco_file(tmp_path, (1, 5, [1, 90, 20, 0]), (1, 9, [1, 90, 200, 90]), GOOD, (2, 5, [1, 9, 9, 9]))
    records, report = run(tmp_path, "coco", changed(file, {}, {}, {}, {"iscrowd": 1}), images=tmp_path / "images")
    assert dict(report.dropped) == {
        "annotations without an extent in (0, 360) degrees": 1,
        "annotations marked iscrowd or ignore": 1,
        "boxes of 180 degrees or more from the questions (they stay in objects)": 1,
        "images without a box that can be asked for": 1,
    }
    assert [item.box_deg[2] for item in records[0].objects] == [200, 20]
    assert [record.conversations[0].task for record in records] == ["detection", "grounding"]
    assert "read: 4 annotations, imported: 2, left out: 2" in str(report)


@pytest.mark.parametrize(
    "changes",
    [
        {"iscrowd": None},
        {"iscrowd": "0", "ignore": 0.0},
        {"iscrowd": False, "area": float("nan")},
        {"image_id": "1", "category_id": "5"},
        {"image_id": 1.0, "category_id": 5.0},
    ],
)
def test_other_spellings_of_flags_and_ids_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = changed(coco_file(tmp_path, GOOD), changes)
    records, report = run(tmp_path, "coco", file, images=tmp_path / "images")
    assert records[0].objects[0].box_deg == (-179, 0, 20, 10)
    assert report.samples == 1


@pytest.mark.parametrize("box", [[], None])
def test_an_annotation_without_a_box_is_left_out(tmp_path: Path, box: list[float] | None) -> None:
    file = changed(coco_file(tmp_path, GOOD, GOOD), {"bbox": box})
    _, report = run(tmp_path, "coco", file, images=tmp_path / "images")
    assert report.findings.left_out == {"annotations without a box": 1}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"bbox": [1, 90, float("nan"), 10]}, "a value that no record can carry"),
        ({"bbox": [1, 90, float("inf"), 10]}, "a value that no record can carry"),
        ({"bbox": [1, 90, 10]}, "a bad bbox"),
        ({"bbox": {"x": 1}}, "a bad bbox"),
        ({"bbox": [1, 90, "10", True]}, "a bad bbox"),
        ({"bbox": [1, -1, 10, 10]}, "a box off the sphere"),
        ({"image_id": 3}, "an unknown image"),
        ({"bbox": [1, 90, 400, 10]}, "a box off the sphere"),
        ({"image_id": None}, "a bad image_id"),
        ({"category_id": 6}, "an unknown category"),
        ({"iscrowd": "maybe"}, "a bad iscrowd"),
    ],
)
def test_bad_annotations_are_named_by_their_place_or_left_out(
    tmp_path: Path, changes: dict[str, Any], kind: str
) -> None:
    file = changed(coco_file(tmp_path, GOOD, GOOD), {}, changes)
    message = refused(tmp_path, "coco", file)
    assert (
        f"1 of 2 annotations cannot be imported; --drop-bad-records leaves them out:\n1 annotations with {kind}:\n"
        in message
    )
    assert "  train.json annotations.1 (id 1): " in message
    records, report = run(tmp_path, "coco", file, images=tmp_path / "images", drop_bad_records=True)
    assert len(records[0].objects) == 1
    assert report.findings.bad == {f"annotations with {kind}": 1}


def test_faults_of_an_image_are_faults_of_its_annotations(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.png"}, {"id": 2}, {"id": 3, "file_name": "../1.png"}]
    images += [{"id": 4, "file_name": "1.png"}, {"id": 4, "file_name": "2.png"}]
    file = coco_file(tmp_path, GOOD, *((n, 5, GOOD[2]) for n in (2, 3, 4)), images=images)
    message = refused(tmp_path, "coco", file)
    assert "3 annotations with a bad image" in message
    for text in (
        "images.1: file_name is missing",
        "images.2: image '../1.png'; expected",
        "images.4: id '4' is '1.png' and",
    ):
        assert text in message
    _, report = run(tmp_path, "coco", file, images=tmp_path / "images", drop_bad_records=True)
    assert "read: 4 annotations, imported: 1, left out: 3" in str(report)


def test_two_ids_of_one_image_give_one_list_of_objects(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": "1.png"} for number in (1, 2)]
    file = coco_file(tmp_path, GOOD, (2, 9, [90, 90, 20, 10]), images=images)
    records, _ = run(tmp_path, "coco", file, images=tmp_path / "images")
    assert [item.label for item in records[0].objects] == ["chair", "door"]


def test_a_category_of_two_names_is_always_refused(tmp_path: Path) -> None:
    categories = [{"id": 5, "name": "door"}, {"id": 5, "name": "window"}]
    file = coco_file(tmp_path, GOOD, categories=categories)
    message = refused(tmp_path, "coco", file, drop_bad_records=True)
    assert message == f"{file}: categories.1: id '5' is 'door' and 'window'; expected one name"
    coco_file(tmp_path, GOOD, categories=[{"id": 5, "name": "a; b"}])
    assert "1 annotations with a bad label" in refused(tmp_path, "coco", file)
    coco_file(tmp_path, GOOD, (1, 9, GOOD[2]), categories=[{"id": 5, "name": "door"}, {"id": 9}, {"id": 9}])
    message = refused(tmp_path, "coco", file)
    assert (
        "1 annotations with a bad category:\n  train.json annotations.1 (id 1): categories.2: name is missing"
        in message
    )


def test_a_single_box_of_another_number_of_numbers_is_bad(tmp_path: Path) -> None:
    file = coco_file(tmp_path, GOOD, GOOD, (1, 9, [1, 0.5, 20, 10, 0]))
    assert "train.json annotations.2 (id 2): bbox [1.0, 0.5, 20.0, 10.0, 0.0] has 5 numbers" in refused(
        tmp_path, "coco", file
    )
    records, _ = run(tmp_path, "coco", file, images=tmp_path / "images", drop_bad_records=True)
    assert [item.label for item in records[0].objects] == ["chair", "chair"]


@pytest.mark.parametrize("content", [[], {"images": []}, {"images": [], "annotations": {}, "categories": []}, 3])
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: Any) -> None:
    message = refused(tmp_path, "coco", write_json(tmp_path / "train.json", content), drop_bad_records=True)
    assert "expected an object with the lists 'images', 'annotations', 'categories'" in message
    assert "\n" not in message


def test_lists_that_come_twice_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text('{"images": [], "annotations": [], "annotations": [], "categories": []}')
    assert "['annotations'] comes twice in the object" in refused(tmp_path, "coco", file)
    file.write_text('{"images": [}')
    assert f"{file}: line 1 column 13: invalid JSON" in refused(tmp_path, "coco", file)
    file.write_text('{"images":' * 50_000)
    assert f"{file}: nested" in refused(tmp_path, "coco", file)
