"""The model card: README.md of a checkpoint, as the Hugging Face hub reads it.

The card's metadata (YAML) holds every fact that the weights do not: the base models, the training data, the scores. The
text is written from the metadata and the configuration, so it survives loading and saving.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from yaml import YAMLError

from panollava.backbones.assemble import Parts
from panollava.backbones.presets import Backbone, hub_reachable
from panollava.backbones.trained import PARTS, read_parts
from panollava.corpus.data_card import count, origin_lines
from panollava.corpus.records import Record
from panollava.io import read_json, replacing
from panollava.markdown import markdown_table
from panollava.report.tables import ScoreRow, all_score_rows
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.processing_panollava import PanoLlavaProcessor

CARD = "README.md"
# What holds for every checkpoint, where the card that it came with says nothing else.
COMMON: dict[str, Any] = {
    "pipeline_tag": "image-text-to-text",
    "license": "other",
    "tags": ["panollava", "panorama", "360", "equirectangular", "visual-question-answering"],
}
# Keys of the metadata that are this module's own.
BASES, DATA, SCORES = "panollava_base_models", "panollava_training_data", "panollava_scores"
SHOWN = 12  # characters of a commit or a hash
COLUMNS = ("measure", "language", "n", "value", "interval", "majority", "blind", "shuffled")

ABOUT = """\
A vision-language model for 360° equirectangular panoramas, made with PanoLLaVA. It answers questions, holds dialogues,
points (yaw and pitch in degrees), and gives boxes and masks on the sphere."""
# The versions of transformers that `make exports` has tried with what `save_pretrained` writes.
USE_CHECKPOINT = """\
With transformers 5.16 to 5.23 alone. The checkpoint brings its own code, and `trust_remote_code=True` runs it:

```python
from PIL import Image
from yaml import YAMLError
from transformers import AutoModelForImageTextToText, AutoProcessor

path = "..."  # this folder or its hub id
model = AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
content = [{"type": "image"}, {"type": "text", "text": "Describe the panorama."}]
prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
inputs = processor(images=Image.open("panorama.jpg"), text=prompt, add_special_tokens=False, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))
```

With PanoLLaVA, which also detects and segments:
"""
USE_FOLDER = """\
The folder holds what was trained, not the base models. PanoLLaVA joins it with them; `panollava merge` writes a full
checkpoint for transformers.
"""
USE_PANOLLAVA = """
```python
from panollava import PanoLLaVAModel

model = PanoLLaVAModel.from_pretrained("...")
print(model.generate("panorama.jpg", "Describe the panorama."))
```"""
LIMITS = """\
The model is for research on panoramas: images of 2:1 that cover the whole sphere. It knows the kinds of questions and
objects of its training data and says something about any image, right or wrong. Do not rely on its answers where an
error can do harm, such as in navigation or surveillance."""
LICENCE = """\
The licences of both base models and of the training data apply to these weights. Read them before you use or share the
model. PanoLLaVA's code is under the MIT licence."""
UNKNOWN_BASES = "The base models are not recorded."
UNKNOWN_DATA = "The training data is not recorded."
UNKNOWN_SCORES = "No scores are recorded for these weights."


def card_data(parts: Parts) -> ModelCardData:
    """Return the metadata of a model on two base models."""
    bases = {"encoder": _base(parts.encoder), "llm": _base(parts.llm)}
    return ModelCardData(
        **COMMON | {"base_model": [base["id"] or base["name"] for base in bases.values()], BASES: bases}
    )


def read_card_data(path: str | Path) -> ModelCardData:
    """Return the metadata of a checkpoint, given as a folder or a hub id.

    It is that of the checkpoint's own card. A folder of a training stage has none, but names its base models. A
    checkpoint with neither gives empty metadata.
    """
    folder = Path(path)
    if folder.is_dir():
        card = folder / CARD
        found = _metadata(card) if card.is_file() else ModelCardData()
        if (folder / PARTS).is_file() and BASES not in found.to_dict():  # the card is the one that PEFT writes
            return card_data(read_parts(folder))
        return found
    try:
        return ModelCard.load(hf_hub_download(str(path), CARD, local_files_only=not hub_reachable())).data
    except EntryNotFoundError:  # not on the hub, or not in the cache of a machine without network
        return ModelCardData()


def _metadata(card: Path) -> ModelCardData:
    """Return the metadata of a card; it may have been edited, and a model does not depend on it."""
    try:
        return ModelCard.load(card).data
    except (ValueError, YAMLError) as error:
        print(f"{card} is no model card, and is left out: {' '.join(str(error).split())}", file=sys.stderr)
        return ModelCardData()


def trained_further(data: ModelCardData, records: Sequence[Record] = ()) -> ModelCardData:
    """Return the metadata after more training, on `records` where they are known; earlier scores no longer hold."""
    kept = {name: value for name, value in data.to_dict().items() if name not in (SCORES, "model-index")}
    if not records:
        return ModelCardData(**kept)
    counts = count(records).summary()
    return ModelCardData(**kept | {DATA: [*kept.get(DATA, []), counts], "language": sorted(counts["languages"])})


def with_scores(data: ModelCardData, metrics: Mapping[str, Any]) -> ModelCardData:
    """Return the metadata with the main numbers of metrics/evaluate.json.

    Raises:
        ValueError: not the content of metrics/evaluate.json, or that of a run with other base models.
    """
    if missing := {"evaluate", "encoder", "llm"} - metrics.keys():
        raise ValueError(
            f"the metrics lack {', '.join(sorted(missing))}; expected the content of metrics/evaluate.json"
        )
    kept = data.to_dict()
    for part, base in kept.get(BASES, {}).items():
        if base["name"] != metrics[part]:
            raise ValueError(f"the metrics are of the {part} {metrics[part]!r}, the model has {base['name']!r}")
    rows = [_score(row) for row in all_score_rows(dict(metrics)) if row.headline]
    return ModelCardData(**kept | {SCORES: rows, "language": list(metrics["evaluate"])})


def read_metrics(file: Path) -> dict[str, Any]:
    """Return the content of a metrics file.

    Raises:
        ValueError: the file is missing, or holds no JSON object.
    """
    return read_json(file)


def model_card(data: ModelCardData, config: PanoLlavaConfig, processor: PanoLlavaProcessor, *, full: bool) -> str:
    """Return the card of a full checkpoint, or of a trained folder that needs its base models."""
    facts = COMMON | data.to_dict() | {"library_name": "transformers" if full else "panollava"}
    bases = facts.get(BASES, {})
    title = f"PanoLLaVA on {bases['encoder']['name']} and {bases['llm']['name']}" if bases else "PanoLLaVA"
    sections = {
        title: ABOUT,
        "Base models": _bases_table(bases) if bases else UNKNOWN_BASES,
        "Views": _views_table(config, processor),
        "How to use it": (USE_CHECKPOINT if full else USE_FOLDER) + USE_PANOLLAVA,
        "Training data": "\n".join(map(_data_line, facts.get(DATA, []))) or UNKNOWN_DATA,
        "Results": _scores_table(facts[SCORES]) if SCORES in facts else UNKNOWN_SCORES,
        "Intended use and limits": LIMITS,
        "Licence": LICENCE,
    }
    text = "\n\n".join(f"{'#' if name == title else '##'} {name}\n\n{body}" for name, body in sections.items())
    return f"---\n{ModelCardData(**facts)}\n---\n\n{text}\n"


def write_model_card(
    folder: Path, data: ModelCardData, config: PanoLlavaConfig, processor: PanoLlavaProcessor, *, full: bool = True
) -> None:
    """Write the card into a checkpoint's folder."""
    with replacing(folder / CARD) as file:
        file.write(model_card(data, config, processor, full=full).encode())


def _base(backbone: Backbone) -> dict[str, Any]:
    """Return what the metadata says of a base model; a path of this machine says nothing on another."""
    hub = backbone.source if backbone.revision is not None else None
    return {"name": backbone.name, "id": hub, "revision": backbone.revision, "fingerprint": backbone.fingerprint}


def _score(row: ScoreRow) -> dict[str, str]:
    cells = (row.name, row.language, row.n, row.value, row.interval, row.majority, row.blind, row.shuffled)
    return dict(zip(COLUMNS, cells, strict=True))


def _bases_table(bases: Mapping[str, Any]) -> str:
    rows = []
    for title, base in (("image encoder", bases["encoder"]), ("language model", bases["llm"])):
        source = f"[{base['id']}](https://huggingface.co/{base['id']})" if base["id"] else "a local checkpoint"
        version = f"commit {base['revision'][:SHOWN]}" if base["id"] else f"SHA-256 {base['fingerprint'][:SHOWN]}"
        rows.append([title, base["name"], source, version])
    return markdown_table(["Part", "Name", "Source", "Version"], rows, left=4)


def _views_table(config: PanoLlavaConfig, processor: PanoLlavaProcessor) -> str:
    seen = processor.image_processor(Image.new("RGB", (512, 256)), return_tensors="pt")["view_poses"][0]
    size = config.view_pixels
    settings = {f"views.{name}": value for name, value in asdict(config.view_settings).items()} | {
        "tokens_per_side": config.tokens_per_side,
        "resampler": config.resampler,
        "position_code": config.position_code,
    }
    rows = [
        ["views of a panorama", f"{len(seen)} of {size} × {size} pixels"],
        ["language tokens of a panorama", str(processor.tokens_of_panorama(seen))],
        *([f"`{name}`", str(value)] for name, value in settings.items() if value is not None),
    ]
    return markdown_table(["Setting", "Value"], rows, left=2)


def _data_line(counts: Mapping[str, Any]) -> str:
    told = f"- {counts['records']} records with {counts['turns']} turns about {counts['images']} panoramas"
    return "\n".join([told, *(f"  {line}" for line in origin_lines(counts["origins"]))])


def _scores_table(scores: Sequence[Mapping[str, str]]) -> str:
    rows = [[score[column] for column in COLUMNS] for score in scores]
    header = ["Measure", "Language", "n", "Model", "95 % interval", "Majority", "Blind", "Shuffled"]
    return (
        "Majority: the most frequent answer. Blind: a twin that was finetuned without images. Shuffled: the model is\n"
        f"shown another panorama.\n\n{markdown_table(header, rows, left=2)}"
    )
