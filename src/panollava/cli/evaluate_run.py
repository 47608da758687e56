"""What `panollava evaluate` does: a store of what is asked, the answers and scores of the stage, and the report."""

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm

from panollava.backbones.checkpoint import load_processor
from panollava.backbones.trained import PARTS, check_trained, read_parts
from panollava.cli.run_record import as_yaml, is_made
from panollava.cli.train_run import is_store
from panollava.corpus.prepare import prepared_splits
from panollava.corpus.reading import read_records, record_file
from panollava.corpus.splits import PIPELINE_SHARES
from panollava.corpus.store import RECORDS, open_split, write_store
from panollava.evaluating import Evaluation, evaluate_model
from panollava.hashes import file_hash
from panollava.io import check_writable, write_text
from panollava.report.model_card import BASES, read_card_data
from panollava.report.page import write_report
from panollava.tasks.checks import answer_problems
from panollava.terminal import say
from panollava.vlm.views import ViewSettings

JPEG_QUALITY = 95


def evaluate_dataset(options: argparse.Namespace) -> None:
    """Answer the questions of a dataset, and write predictions, metrics and report.

    Raises:
        ValueError: whatever is wrong with the model or the data; before anything is computed where it can be.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    out, dataset = Path(options.output), Path(options.dataset)
    metrics, predictions = out / "metrics/evaluate.json", out / "evaluate/predictions.jsonl"
    chosen = chosen_model(options.model) | {"seed": options.seed}
    if options.blind is not None:
        check_twin(options.model, options.blind)
    processor = load_processor(options.model)
    if state.is_main_process:
        check_writable(metrics)
    store, split = dataset, options.split or "test"
    if is_store(dataset):
        if split == "all":
            raise ValueError(f"{dataset} is a store: --split all is for records; name one of its splits")
        open_split(store, split)
    else:
        store, split = out / "store", "test"
        if state.is_main_process:
            prepare(options, dataset, store)
        state.wait_for_everyone()
    asked = Evaluation(
        model=options.model, blind=options.blind, store=store, split=split, batch_size=options.batch_size,
        shuffled=options.shuffled, resamples=options.resamples, seed=options.seed,
    )  # fmt: skip
    evaluate_model(asked, chosen, predictions=predictions, metrics=metrics, latency=out / "metrics/latency.json")
    if state.is_main_process:
        images = processor.image_processor
        write_report(
            predictions, out / "metrics", out / "plots", store, out / "plots/figures", out / "plots/report.html",
            views=ViewSettings(**images.views), tokens_per_side=images.tokens_per_side, samples=options.samples,
            seed=options.seed, split=split,
        )  # fmt: skip
        say(f"{metrics}, {predictions} and {out / 'plots/report.html'} are written")
    state.destroy_process_group()


def chosen_model(model: str) -> dict[str, Any]:
    """Return the names of a model's two backbones, and its own in place of the choice of weights."""
    folder = Path(model)
    if (folder / PARTS).is_file():
        parts = read_parts(folder)
        names = {"encoder": parts.encoder.name, "llm": parts.llm.name}
    else:
        bases = read_card_data(model).to_dict().get(BASES, {})
        names = {part: str(bases[part]["name"]) if part in bases else "unknown" for part in ("encoder", "llm")}
    return {**names, "weights": model}


def check_twin(model: str, blind: str) -> None:
    """Refuse a blind twin that has another language model.

    Raises:
        ValueError: no trained folder, or one of another language model.
    """
    twin = read_parts(Path(blind))
    check_trained(Path(blind))
    if (Path(model) / PARTS).is_file() and (own := read_parts(Path(model))).llm.fingerprint != twin.llm.fingerprint:
        raise ValueError(
            f"{blind} is a twin on the language model {twin.llm.name}, but {model} is on {own.llm.name}; a blind twin "
            "differs in nothing but the images"
        )


def prepare(options: argparse.Namespace, dataset: Path, store: Path) -> None:
    """Write a store with what is asked as its split `test`, and what was trained on if the records are divided."""
    named = any("split" in record.metadata for record in read_records(dataset))
    split = options.split or ("test" if named else "all")
    wanted = {
        "records": file_hash(record_file(dataset)),
        "split": split,
        "image_height": options.image_height,
        "allow_any_aspect": options.allow_any_aspect,
        "seed": options.seed,
    }
    record = store.parent / "settings/asked.yaml"
    if is_made(store / RECORDS, record, wanted):
        return
    if store.exists() and not record.exists():
        raise ValueError(f"{store} is there already; name it as DATASET, or choose another --output")
    rows = prepared_splits(
        dataset,
        answer_problems,
        shares=None if split == "all" else PIPELINE_SHARES,
        seed=options.seed,
        image_height=options.image_height,
        allow_any_aspect=options.allow_any_aspect,
    )
    written = {"test": rows["test" if split == "all" else split]}
    if split in ("test", "validation"):
        written["train"] = rows["train"]
    for name, own in written.items():
        count = write_store(store, name, tqdm(own, desc=name, unit=" panoramas"), jpeg_quality=JPEG_QUALITY)
        say(f"{store}: {count} panoramas as {name}")
    write_text(record, as_yaml(wanted))
    if split == "all":
        say("all panoramas are asked; if the model was trained on some of them, evaluate it on the store of its run")
