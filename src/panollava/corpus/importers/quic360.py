"""QuIC-360: captions of panoramas by query, from several people per image and query; also CORA's CSV of it.

Layout as in https://github.com/Silviase/QuIC-360 (dataset/raw/*.tsv, read): header `url`, `query`, `annotation`; `url`
is a Flickr link, or a path of Refer360's in test-refer.tsv. CORA (https://github.com/wooseungw/CORA-360,
scripts/download_quic360_images.py, read) keeps the columns in a CSV whose `url` is a local path; each image is named by
the last part of its link, and links are looked up the same way here. Texts stay as published, backslashes included.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from panollava.corpus.importers.common import Entry, Imported, Origin, Request, annotation_file, image_name
from panollava.corpus.importers.findings import BadSample, Findings
from panollava.corpus.importers.tables import read_table

ORIGIN = Origin(
    "QuIC-360 (Maeda et al., Findings of EMNLP 2023), https://github.com/Silviase/QuIC-360",
    "not stated (its README has a placeholder); images by their owners on Flickr and in Refer360",
)
COLUMNS = ("url", "query", "annotation")
SPLITS = {"train": "train", "validation": "valid", "test": "test"}
SEPARATORS = {".tsv": "\t", ".csv": ","}


def _image(url: str) -> str:
    return PurePosixPath(url).name if url.startswith(("http://", "https://")) else url


def _fields(query: str, captions: list[str], metadata: dict[str, str]) -> dict[str, Any]:
    turn: dict[str, Any] = {"human": f"Describe what the panorama shows of: {query}", "assistant": captions[0]}
    turn |= {"task": "description", "type": "query", "references": captions}
    return {"conversations": [turn], "metadata": {"query": query} | metadata}


def _split_files(folder: Path) -> dict[str, Path]:
    """Return the file of each split; raises ValueError unless every split has exactly one."""
    files = {}
    for split, stem in SPLITS.items():
        found = [folder / (stem + suffix) for suffix in SEPARATORS if (folder / (stem + suffix)).is_file()]
        if len(found) != 1:
            raise ValueError(f"{folder}: found {len(found)} of {stem}.tsv and {stem}.csv; expected exactly one")
        files[split] = found[0]
    return files


def _entries(request: Request, file: Path, metadata: dict[str, str], findings: Findings) -> list[Entry]:
    """Return one record per image and query of a file, with all its captions in the order of the file."""
    captions: dict[tuple[str, str], list[str]] = {}
    first_row: dict[tuple[str, str], str] = {}
    for row in read_table(file, SEPARATORS[file.suffix], COLUMNS, findings):
        try:
            key = image_name(request.image_folder, _image(row.cells["url"])), row.cells["query"]
            for column in ("query", "annotation"):
                if not row.cells[column].strip():
                    raise BadSample(f"an empty {column}", f"the cell {column} is empty; expected text")
        except BadSample as error:
            findings.reject(row.where, error)
            continue
        captions.setdefault(key, []).append(row.cells["annotation"])
        first_row.setdefault(key, row.where)
    return [
        Entry(first_row[image, query], image, _fields(query, texts, metadata), samples=len(texts))
        for (image, query), texts in captions.items()
    ]


def read(request: Request) -> Imported:
    """Return one record per image and query; a folder with one file per split also gives `metadata.split`."""
    findings = Findings("rows")
    if not request.src.is_dir():
        entries = _entries(request, annotation_file(request.src, *SEPARATORS), {}, findings)
        return Imported(ORIGIN, request.image_folder, entries, findings)
    files = _split_files(request.src)
    entries = [item for split, file in files.items() for item in _entries(request, file, {"split": split}, findings)]
    others = sorted(file.name for file in request.src.iterdir() if file.suffix in SEPARATORS)
    left = [name for name in others if name not in {file.name for file in files.values()}]
    findings.besides.update(f"file {name}, which is no split (import it by itself)" for name in left)
    return Imported(ORIGIN, request.image_folder, entries, findings)
