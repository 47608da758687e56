"""Panoramas to look at: a picture, a folder of pictures, or the store of a run; by id, opened when they are shown."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from panollava.corpus.images import open_panorama, to_working_size
from panollava.corpus.records import ObjectAnnotation
from panollava.corpus.store import encode_image, open_images, open_records, panorama_records

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif")
# Browsers draw no larger pictures on the sphere; a JPEG of this size has some ten megabytes.
MAX_HEIGHT = 4096
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Panorama:
    """A panorama: its id, how it is opened, and its annotated objects."""

    image_id: str
    open: Callable[[], Image.Image]
    objects: Callable[[], list[ObjectAnnotation]] = list

    def jpeg(self) -> bytes:
        """Return the picture as every browser reads it; raises ImageError, with the name of the file."""
        return encode_image(to_working_size(self.open(), MAX_HEIGHT), JPEG_QUALITY)


def find_panoramas(source: Path, *, allow_any_aspect: bool = False) -> list[Panorama]:
    """Return the panoramas of a picture, of a folder of pictures (by file name without suffix), or of a store.

    Pictures are opened only when they are shown.

    Raises:
        ValueError: the folder has neither pictures nor a store, or two pictures of one name.
        FileNotFoundError: there is no such file or folder.
    """
    if not source.is_dir():
        if not source.exists():
            raise FileNotFoundError(2, "No such file or directory", str(source))
        return [_of_file(source, allow_any_aspect=allow_any_aspect)]
    splits = sorted(file.stem for file in (source / "images").glob("*.arrow"))
    if splits:
        return [panorama for split in splits for panorama in _of_split(source, split)]
    files = sorted(file for file in source.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{source} holds neither pictures ({', '.join(SUFFIXES)}) nor a store (images/*.arrow)")
    names = [file.stem for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{source}: two pictures are called {', '.join(twice)}; rename one of each pair")
    return [_of_file(file, allow_any_aspect=allow_any_aspect) for file in files]


def _of_file(path: Path, *, allow_any_aspect: bool) -> Panorama:
    opening = partial(open_panorama, path, allow_any_aspect=allow_any_aspect, working_height=MAX_HEIGHT)
    return Panorama(path.stem, opening)


def _of_split(store: Path, split: str) -> list[Panorama]:
    images, records = open_images(store, split), open_records(store, split)

    def picture(row: int) -> Image.Image:
        return open_panorama(images[row]["image"])

    def objects(row: int) -> list[ObjectAnnotation]:
        return [item for record in panorama_records(records[row]) for item in record.objects]

    return [
        Panorama(image_id, partial(picture, row), partial(objects, row))
        for row, image_id in enumerate(images["image_id"])
    ]
