"""Importers of public data sets into the record format: one module per published layout, and `import_dataset`.

Each module names the public source from which its layout was read. Every record's metadata holds source and licence.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from panollava.corpus.image_paths import as_on_disk
from panollava.corpus.importers import bench360, coco, imagefolder, llava, quic360, stanford2d3d, vqa
from panollava.corpus.importers.common import Imported, Origin, Request
from panollava.corpus.importers.writing import Check, ImportReport, write_dataset
from panollava.io import check_vacant

IMPORTERS: dict[str, Callable[[Request], Imported]] = {
    "quic360": quic360.read,
    "llava": llava.read,
    "coco": coco.read,
    "bench360": bench360.read,
    "vqa": vqa.read,
    "imagefolder": imagefolder.read,
    "stanford2d3d": stanford2d3d.read,
}


def import_dataset(
    name: str,
    request: Request,
    dst: Path,
    *checks: Check,
    source: str | None = None,
    licence: str | None = None,
    allow_any_aspect: bool = False,
    drop_bad_images: bool = False,
    drop_bad_records: bool = False,
) -> ImportReport:
    """Read a public data set and write it as a dataset folder; `source` and `licence` replace the importer's own.

    `checks` are further checks of the records, such as that of their answers.

    Raises:
        ValueError: an unknown name, another layout, samples or images that cannot be used (unless they are to be
            dropped), or a folder that exists. The message lists the problems by kind, and nothing is written.
    """
    if name not in IMPORTERS:
        raise ValueError(f"no importer {name!r}; there are {', '.join(IMPORTERS)}")
    check_vacant(dst)
    images = None if request.images is None else as_on_disk(request.images)
    if images is not None and not images.is_dir():
        raise ValueError(f"--images {images}: no such folder; expected the one that image names are relative to")
    imported = IMPORTERS[name](replace(request, src=as_on_disk(request.src), images=images))
    known = imported.origin
    origin = Origin(source or known.source, licence or known.licence)
    return write_dataset(
        replace(imported, origin=origin),
        dst,
        layout=name,
        checks=checks,
        allow_any_aspect=allow_any_aspect,
        drop_bad_images=drop_bad_images,
        drop_bad_records=drop_bad_records,
    )
