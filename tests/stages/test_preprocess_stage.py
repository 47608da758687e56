"""Preprocessing of the user's own records: images are found as the validation finds them."""

import json
import unicodedata
from pathlib import Path

import pytest
import yaml
from PIL import Image

from stages import preprocess

PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())


@pytest.mark.parametrize("by_file", [False, True])
def test_names_in_another_unicode_form_are_preprocessed(tmp_path: Path, by_file: bool) -> None:
    rows = []
    for number, split in enumerate(preprocess.SPLITS):
        name = f"파노라마_{number}.png"
        Image.new("RGB", (16, 8), (number, 0, 0)).save(tmp_path / unicodedata.normalize("NFD", name))
        rows.append({"image_id": name, "image_path": unicodedata.normalize("NFC", name), "metadata": {"split": split},
                     "conversations": [{"human": "q", "assistant": "a"}]})  # fmt: skip
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(rows))
    dataset = PARAMS["dataset"] | {"source": "records", "path": str(file if by_file else tmp_path)}
    params = preprocess.PreprocessParams(seed=0, weights="standin", dataset=dataset, preprocess=PARAMS["preprocess"])
    found = preprocess._from_records(params, params.preprocess["standin"])
    for number, split in enumerate(preprocess.SPLITS):
        (row,) = found[split]
        assert row.image.getpixel((0, 0)) == (number, 0, 0)
