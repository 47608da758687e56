"""Stanford 2D-3D-S: instances of a semantic image as objects with masks."""

from pathlib import Path

import numpy as np
import pytest
from importer_cases import refused, run, write_image, write_json
from PIL import Image
from pycocotools import mask as coco_mask

LABELS = ["<UNK>_0_<UNK>_0_0", *(f"{name}_1_office_1_1" for name in ("chair", "floor", "wall"))] + ["x_1_a_1_1"] * 300
LABELS[300] = "chair_2_office_1_1"
PANO = "camera_0ccf_office_1_frame_equirectangular_domain"


def stanford_folder(tmp_path: Path, *, size: tuple[int, int] = (64, 32)) -> Path:
    """Write one panorama: two chairs (1 and 300), a floor, a wall all around, unlabelled and missing pixels."""
    root = tmp_path / "2D-3D-S"
    write_json(root / "assets/semantic_labels.json", LABELS)
    write_image(root / f"area_1/pano/rgb/{PANO}_rgb.png", (64, 32))
    index = np.full((32, 64), 3)
    index[:4], index[4:6], index[24:] = 0x0D0D0D, 0, 2
    index[12:20, 30:36], index[12:16, :3], index[12:16, -3:] = 1, 300, 300
    colours = np.stack((index >> 16, index >> 8 & 255, index & 255), axis=-1).astype(np.uint8)
    file = root / f"area_1/pano/semantic/{PANO}_semantic.png"
    file.parent.mkdir(parents=True)
    Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).save(file)
    return root


def test_instances_become_objects_with_masks(tmp_path: Path) -> None:
    records, report = run(tmp_path, "stanford2d3d", stanford_folder(tmp_path))
    objects = records[0].objects
    assert [item.label for item in objects] == ["chair", "floor", "wall", "chair"]
    assert all(item.mask.size == (32, 64) for item in objects)
    decoded = [coco_mask.decode({"size": list(o.mask.size), "counts": o.mask.counts.encode()}) for o in objects]
    assert [int(mask.sum()) for mask in decoded] == [48, 512, 1080, 24]
    assert objects[0].box_deg[:2] == pytest.approx((360 / 64, 0), abs=0.5)
    # Astride the seam, as one object.
    assert abs(objects[3].box_deg[0]) > 179
    assert objects[3].box_deg[2] == pytest.approx(6 * 360 / 64, abs=2)
    assert objects[2].box_deg[2] >= 180
    detection = records[0].conversations[0].answer
    assert sorted(item.label for item in detection.objects) == ["chair", "chair", "floor"]
    assert records[1].conversations[0].answer.label == "floor"
    assert [item.label for item in records[2].conversations[0].answer.objects] == ["chair"] * 2
    assert len(records) == 3
    assert report.dropped["pixels without a label"] == 6 * 64
    assert report.dropped["boxes of 180 degrees or more from the questions (they stay in objects)"] == 1
    assert "licence agreement" in records[0].metadata["licence"]


def test_pictures_and_labels_must_match(tmp_path: Path) -> None:
    root = stanford_folder(tmp_path, size=(32, 16))
    message = refused(tmp_path, "stanford2d3d", root)
    assert message.startswith("1 of 1 panoramas cannot be imported")
    assert "(32, 16) pixels, the picture (64, 32); expected the same size" in message
    semantic = root / f"area_1/pano/semantic/{PANO}_semantic.png"
    Image.new("RGB", (64, 32), (0, 9, 0)).save(semantic)
    assert f"{semantic.name}: index 2304 has no label" in refused(tmp_path, "stanford2d3d", root)
    semantic.write_bytes(b"no image")
    assert "not a readable image" in refused(tmp_path, "stanford2d3d", root)
    semantic.rename(semantic.with_name("other_semantic.png"))
    message = refused(tmp_path, "stanford2d3d", root)
    assert message.startswith("2 of 2 panoramas cannot be imported")
    assert f"{PANO}_rgb.png: has no semantic image" in message
    write_json(root / "assets/semantic_labels.json", ["chair"])
    assert "label 0: 'chair'" in refused(tmp_path, "stanford2d3d", root)
    assert "SRC is the folder that holds assets/" in refused(tmp_path, "stanford2d3d", root / "area_1")
    assert "leave the option out" in refused(tmp_path, "stanford2d3d", root, images=root)


def test_bad_panoramas_are_left_out(tmp_path: Path) -> None:
    root = stanford_folder(tmp_path)
    write_image(root / "area_2/pano/rgb/alone_rgb.png", (64, 32))
    records, report = run(tmp_path, "stanford2d3d", root, drop_bad_records=True)
    assert len(records) == 3
    assert report.findings.bad == {"panoramas with no semantic image": 1}
    assert "read: 2 panoramas, imported: 1, left out: 1" in str(report)


@pytest.mark.parametrize("content", [{}, [3], "x", None])
def test_labels_of_another_form_are_refused(tmp_path: Path, content: object) -> None:
    root = stanford_folder(tmp_path)
    write_json(root / "assets/semantic_labels.json", content)
    message = refused(tmp_path, "stanford2d3d", root, drop_bad_records=True)
    assert "semantic_labels.json" in message
