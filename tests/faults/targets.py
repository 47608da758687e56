"""The targets of the fuzzer: readers of what others wrote, each with sound inputs and the errors that it documents."""

import hashlib
import io
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from hostile import picture, with_packet
from PIL import Image

from panollava.backbones.presets import read_pointer
from panollava.backbones.trained import read_parts
from panollava.corpus.images import ImageError, open_panorama
from panollava.corpus.importers import import_dataset
from panollava.corpus.importers.common import Request
from panollava.corpus.masks import encoded
from panollava.corpus.problems import Problem, RecordErrors
from panollava.corpus.reading import parse_records
from panollava.corpus.records import records_from_json, records_to_json
from panollava.corpus.run_lengths import rle_runs
from panollava.corpus.world_records import world_row
from panollava.metrics.spherical_iou import paired_iou
from panollava.tasks.detection import parse_detection
from panollava.tasks.direction import parse_direction
from panollava.tasks.grounding import parse_box
from panollava.tasks.prediction_files import parse_predictions

Call = Callable[[Path, bytes | str], object]


@dataclass(frozen=True)
class Target:
    """A reader: sound inputs, what calls it in a folder, what it may raise, its share of all cases."""

    seeds: Sequence[bytes] | Sequence[str]
    call: Call
    refusals: tuple[type[Exception], ...]
    share: float


def in_file(name: str, read: Callable[[Path], object]) -> Call:
    """Return what writes a case into a file and reads it."""

    def call(folder: Path, case: bytes | str) -> object:
        file = folder / name
        file.write_bytes(case.encode(errors="surrogatepass") if isinstance(case, str) else case)
        return read(file)

    return call


def imported(layout: str, name: str) -> Call:
    """Return what imports a case as a data set of a layout, every other one without its bad records."""
    numbers = itertools.count()

    def read(file: Path) -> object:
        number = next(numbers)
        for neighbour in ("a.jpg", "b.jpg"):
            if not (file.parent / neighbour).exists():
                (file.parent / neighbour).write_bytes(picture(kind="JPEG"))
        out = file.parent / f"out-{number}"
        return import_dataset(layout, Request(file, file.parent), out, drop_bad_records=number % 2 == 1)

    return in_file(name, read)


def read_records_again(file: Path) -> None:
    """Read records; those that are sound are the same after writing and reading them, the others have problems."""
    located, problems = parse_records(file)
    sound = [record for _, record in located]
    assert records_from_json(records_to_json(sound)) == sound
    raise_unless_sound(problems)


def raise_unless_sound(problems: list[Problem]) -> None:
    """Raise RecordErrors for problems, but for that of the image, which is not there."""
    problems = [problem for problem in problems if problem.field != "image_path"]
    if problems:
        raise RecordErrors(problems)


def read_mask(_: Path, case: bytes | str) -> None:
    """Read run lengths."""
    rle_runs(str(case))


def parse_answers(_: Path, case: bytes | str) -> None:
    """Parse an answer as each kind of typed answer; every number is finite."""
    direction, box = parse_direction(str(case)), parse_box(str(case))
    objects, unread = parse_detection(str(case))
    numbers = [*(direction or ()), *(box or ()), *(value for _, one in objects for value in one), unread]
    assert all(math.isfinite(number) for number in numbers)


def read_predictions(_: Path, case: bytes | str) -> None:
    """Read lines of predictions."""
    list(parse_predictions("predictions.jsonl", str(case).splitlines()))


def compare_boxes(_: Path, case: bytes | str) -> None:
    """Compare two random boxes: their IoU is a number from 0 to 1, the same both ways, and 1 for a box and itself."""
    rng = Random(hashlib.sha256(str(case).encode(errors="replace")).digest())
    boxes = torch.tensor([random_box(rng), random_box(rng)], dtype=torch.float64)
    first, second = boxes[:1], boxes[1:]
    there, back = paired_iou(first, second).item(), paired_iou(second, first).item()
    assert 0 <= there <= 1
    assert abs(there - back) < 1e-6
    assert abs(paired_iou(first, first).item() - 1) < 1e-6


def random_box(rng: Random) -> list[float]:
    """Return a box (yaw, pitch, width, height) in radians, often at the seam, at a pole, tiny or huge."""
    yaw, pitch = (rng.choice((rng.uniform(-most, most), 0.0, most, -most)) for most in (math.pi, math.pi / 2))
    sizes = [rng.choice((rng.uniform(1e-3, 3.1), rng.uniform(1e-6, 1e-3), 1.0, math.pi / 2)) for _ in range(2)]
    return [yaw, pitch, *sizes]


def pictures() -> list[bytes]:
    """Return sound pictures of several formats, with EXIF and XMP."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    buffer = io.BytesIO()
    Image.new("RGB", (32, 64)).save(buffer, format="JPEG", exif=exif)
    area = {"FullPanoWidth": 64, "FullPanoHeight": 32, "CroppedAreaImageWidth": 64, "CroppedAreaImageHeight": 16}
    area |= {"CroppedAreaLeft": 0, "CroppedAreaTop": 8}
    pixels = " ".join(f'GPano:{name}Pixels="{value}"' for name, value in area.items())
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" '
        f'GPano:ProjectionType="equirectangular" {pixels}/></rdf:RDF></x:xmpmeta>'
    )
    kinds = [picture(kind=kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP")]
    return [*kinds, buffer.getvalue(), with_packet(packet.encode(), height=16)]


def world_json() -> str:
    """Return the records of a panorama of the synthetic world."""
    return records_to_json(world_row(0, seed=0, split="test", height=64, korean_share=0.5).records[:6])


def masks() -> list[str]:
    """Return run lengths of real masks: of a box, of noise, of nothing."""
    box = np.zeros((32, 64), dtype=bool)
    box[8:20, 10:30] = True
    noise = np.random.default_rng(0).random((32, 64)) < 0.5
    return [encoded(mask)["counts"] for mask in (box, noise, ~box & box)]


def prediction_line() -> str:
    """Return a line of predictions.jsonl."""
    fields = {"variant": "model", "image_id": "a", "record": 0, "turn": 0, "language": "en", "task": "choice"}
    fields |= {"type": "colour", "question": "What?", "reference": "red", "references": ["red"]}
    return json.dumps(fields | {"answer": {"text": "red"}, "prediction": "red", "score": 0.5, "correct": True})


def sample(name: str, question: str, answer: str) -> dict[str, object]:
    """Return a sample of LLaVA's layout."""
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": f"{name}.jpg", "conversations": turns}


LLAVA = json.dumps([sample("a", "<image>\nWhat is it?", "A wall."), sample("b", "Who is there?", "Nobody.")])
DOORS = [[180, 90, 20, 20], [350.5, 80, 30, 20], [10, 60.25, 12, 170]]
COCO = json.dumps({
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "categories": [{"id": 1, "name": "door"}],
    "annotations": [{"id": n, "image_id": 1, "category_id": 1, "bbox": box} for n, box in enumerate(DOORS)],
})  # fmt: skip
QUIC = 'url\tquery\tannotation\nhttp://x/a.jpg\troom\tA wide "room".\nhttp://x/b.jpg\tcity\tA street, with cars.\n'
POINTER = {"name": "clip", "source": "x", "revision": None, "fingerprint": "0" * 64, "feature_layer": -2}
PARTS = json.dumps(dict.fromkeys(("encoder", "llm"), POINTER | {"chat_template": None}))
ANSWERS = [
    "35, -12", "yaw 35°, pitch −12°", "[10, -5, 30, 40]", "door [10, -5, 30, 40]; wall [-170.5, 0, 8, 9]", "none",
    '{"bbox": [10, -5, 30, 40]}', '[{"label": "door", "bbox_2d": [10, -5, 30, 40]}]', "<box>10, -5, 30, 40</box>",
]  # fmt: skip
REFUSED = (ValueError, OSError)
TARGETS: dict[str, Target] = {
    "answers": Target(ANSWERS, parse_answers, (), 0.40),
    "run lengths": Target(masks(), read_mask, (ValueError,), 0.25),
    "records": Target([world_json()], in_file("annotations.json", read_records_again), (ValueError,), 0.08),
    "lines of records": Target(
        ["\n".join(json.dumps(one) for one in json.loads(world_json()))],
        in_file("annotations.jsonl", read_records_again), (ValueError,), 0.04,
    ),
    "pictures": Target(pictures(), in_file("a.jpg", open_panorama), (ImageError,), 0.08),
    "boxes": Target(["0"], compare_boxes, (), 0.05),
    "predictions": Target([prediction_line()], read_predictions, (ValueError,), 0.06),
    "parts of a model": Target([PARTS], in_file("parts.json", lambda file: read_parts(file.parent)), REFUSED, 0.02),
    "pointers": Target([json.dumps(POINTER)], in_file("llm.json", read_pointer), REFUSED, 0.01),
    "import llava": Target([LLAVA], imported("llava", "llava.json"), REFUSED, 0.004),
    "import coco": Target([COCO], imported("coco", "coco.json"), REFUSED, 0.004),
    "import quic360": Target([QUIC], imported("quic360", "quic.tsv"), REFUSED, 0.004),
}  # fmt: skip
