"""The frozen encoder's features of a split, computed once and shared by all stages that train behind it.

One file per encoder weights, feature layer, view settings and split, so that a change of any of them means another
file: patch grids `[P, V, h, w, C]` in the encoder's dtype, memory-mapped, and behind them their SHA-256. The oldest
files make room for new ones.
"""

import hashlib
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from panollava.io import replacing
from panollava.training.processes import from_main
from panollava.training.scratch import content_hash, scratch_root
from panollava.vlm.image_processing_panollava import PanoLlavaImageProcessor

LIMIT_BYTES = 16 * 2**30
PANORAMAS_AT_ONCE = 8
CHUNK_BYTES = 2**24


def frozen_features(
    model: Any, image_processor: PanoLlavaImageProcessor, split: datasets.Dataset, *, uses: int
) -> Tensor | None:
    """Return the patch grids `[P, V, h, w, C]` of all panoramas of a split, from the store or computed now.

    None where that would not pay: where a stage draws so few panoramas (`uses`) that the stage after it, which goes on
    with the same features, could not bring it in; or where the grids would take more than the limit.
    """
    path = from_main(lambda: scratch_root() / "features" / f"{_key(model, image_processor, split)}.bin")
    with torch.no_grad():
        shape = (len(split), *_encode(model, image_processor, split, 0, 1).shape[1:])
    size = torch.Size(shape).numel() * model.dtype.itemsize
    if not from_main(lambda: _is_whole(path, size)) and (2 * uses < len(split) or size > LIMIT_BYTES):
        return None
    _write_once(path, size, model, image_processor, split)
    return torch.from_file(str(path), size=torch.Size(shape).numel(), dtype=model.dtype).view(shape)


def _is_whole(path: Path, size: int) -> bool:
    """Return whether a file holds `size` bytes and their hash; one that does not is named and removed."""
    if not path.is_file():
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while content := file.read(min(CHUNK_BYTES, size - file.tell())):
            digest.update(content)
        whole = digest.digest() == file.read()
    if not whole:
        print(f"{path} is damaged, or of an older version; the features are computed again", flush=True)
        path.unlink()
    return whole


def _key(model: Any, image_processor: PanoLlavaImageProcessor, split: datasets.Dataset) -> str:
    digest = hashlib.sha256(f"{model.config.vision_feature_layer} {image_processor.to_json_string()}".encode())
    for name, value in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy())
    digest.update(content_hash([Path(file["filename"]) for file in split.cache_files]).encode())
    return digest.hexdigest()[:16]


def _encode(
    model: Any, image_processor: PanoLlavaImageProcessor, split: datasets.Dataset, start: int, end: int
) -> Tensor:
    images = [split[index]["image"] for index in range(start, min(end, len(split)))]
    pixels = image_processor(images, return_tensors="pt")["pixel_values"]
    return model.model.encode_views(pixels.to(model.device)).cpu()


def _write_once(
    path: Path, size: int, model: Any, image_processor: PanoLlavaImageProcessor, split: datasets.Dataset
) -> None:
    """Compute the file unless it is there; it appears only when it is complete.

    The processes encode the panoramas by turns, and the main one writes them in order.
    """
    state = PartialState()
    with ExitStack() as held, torch.no_grad():
        if state.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path.parent / "lock"))
        if from_main(path.is_file):
            if state.is_main_process:
                path.touch()
            return
        if state.is_main_process:
            _make_room(path.parent, size)
            file = held.enter_context(replacing(path))
            digest = hashlib.sha256()
        turns = range(0, len(split), PANORAMAS_AT_ONCE * state.num_processes)
        for turn in tqdm(turns, desc="encoder", mininterval=1, disable=not state.is_main_process):
            start = turn + PANORAMAS_AT_ONCE * state.process_index
            own = [start] if start < len(split) else []  # the last turn may end before this process
            grids = gather_object([_encode(model, image_processor, split, at, at + PANORAMAS_AT_ONCE) for at in own])
            if state.is_main_process:
                for encoded in grids:
                    content = encoded.contiguous().view(torch.uint8).numpy().tobytes()
                    digest.update(content)
                    file.write(content)
        if state.is_main_process:
            file.write(digest.digest())
    state.wait_for_everyone()


def _make_room(folder: Path, size: int) -> None:
    """Remove what killed runs left, then the files used longest ago until `size` more bytes fit under the limit.

    Who holds the lock of the folder is the only one who writes in it.
    """
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    files = sorted(folder.glob("*.bin"), key=lambda file: file.stat().st_mtime)
    total = sum(file.stat().st_size for file in files)
    for file in files:
        if total + size <= LIMIT_BYTES:
            return
        total -= file.stat().st_size
        file.unlink()
