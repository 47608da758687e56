"""Turn the entries of an importer into records: bad ones are counted, identical ones left out, ids made distinct."""

import json
from collections.abc import Sequence
from hashlib import sha256

from pydantic import ValidationError

from panollava.corpus.importers.common import Entry, Origin
from panollava.corpus.importers.findings import Findings, misfit
from panollava.corpus.records import Record


def _record(entry: Entry, origin: Origin) -> Record:
    metadata = {"source": origin.source, "licence": origin.licence} | entry.fields.get("metadata", {})
    named = {"image_id": entry.image, "image_path": f"images/{entry.image}"}
    return Record.model_validate(named | entry.fields | {"metadata": metadata})


def _distinct(name: str, last: dict[str, int]) -> str:
    """Return the id, with the first free number behind it if it is taken; `last` holds the last number of each id."""
    distinct = name
    while distinct in last:
        last[name] += 1
        distinct = f"{name}-{last[name]}"
    last[distinct] = 1
    return distinct


def records_of(entries: Sequence[Entry], origin: Origin, findings: Findings) -> list[tuple[Entry, Record]]:
    """Return the entries with their records, without the bad ones and those identical to an earlier one.

    A record that repeats the id of another one gets a distinct id.
    """
    kept: list[tuple[Entry, Record]] = []
    seen: dict[bytes, str] = {}
    last: dict[str, int] = {}
    for entry in entries:
        try:
            record = _record(entry, origin)
        except ValidationError as error:
            findings.reject(entry.where, misfit(error), entry.samples)
            continue
        content = json.dumps(record.model_dump(mode="json"), sort_keys=True)
        identity = sha256(content.encode()).digest()
        first = seen.setdefault(identity, entry.where)
        if first is not entry.where:
            findings.leave_out(f"{entry.where} is {first}", "identical to an earlier one", entry.samples)
            continue
        name = record.metadata.get(entry.id_key)
        if name is not None:
            distinct = _distinct(name, last)
            if distinct != name:
                findings.changed[f"{entry.id_key} that an earlier record has (a number was added)"] += 1
                record = record.model_copy(update={"metadata": record.metadata | {entry.id_key: distinct}})
        kept.append((entry, record))
    return kept
