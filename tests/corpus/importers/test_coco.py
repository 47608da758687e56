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


def test_annotations_that_are_left_out_are_counted(tmp_path: Path) -> None:
    file = coco_file(
        tmp_path, (1, 5, [1, 90, 20, 0]), (1, 9, [1, 90, 200, 90]), (1, 5, [1, 90, 20, 10]), (2, 5, [1, 9, 9, 9])
    )
    content = json.loads(file.read_text())
    content["annotations"][3]["iscrowd"] = 1
    records, report = run(tmp_path, "coco", write_json(file, content), images=tmp_path / "images")
    assert dict(report.dropped) == {
        "annotations without an extent in (0, 360) degrees": 1,
        "annotations marked iscrowd or ignore": 1,
        "boxes of 180 degrees or more from the questions (they stay in objects)": 1,
        "images without a box that can be asked for": 1,
    }
    assert [item.box_deg[2] for item in records[0].objects] == [200, 20]
    assert [record.conversations[0].task for record in records] == ["detection", "grounding"]


def test_all_problems_of_the_boxes_are_in_one_error(tmp_path: Path) -> None:
    file = coco_file(tmp_path, (1, 5, [960, 480, 20, 10]), (3, 5, [1, 1, 9, 9]), (1, 5, [90, 45, 9, 9, 0]))
    message = refused(tmp_path, "coco", file)
    assert message.startswith(f"4 problems in {file}")
    assert "annotations.1: image_id 3 or category_id 5 is not in the file" in message
    assert "boxes of four numbers (2) and of five (1); expected one kind" in message
    assert (
        "annotations.0: bbox [960.0, 480.0, 20.0, 10.0] has its centre off the sphere; 4 numbers are read as" in message
    )
    assert "annotations.2: bbox" in message
    message = refused(tmp_path, "coco", coco_file(tmp_path, (1, 5, [1, 2, 3]), images=[{"id": 1}]))
    assert "train.json.images.0.file_name: Field required" in message
    assert "train.json.annotations.0.bbox: got [1, 2, 3]" in message
