"""Open exported checkpoints with the oldest and the newest supported transformers, where PanoLLaVA is not installed.

`make exports`, or `python tests/export_versions.py 5.16.0 5.19.0`. Each version gets an environment of its own
in .scratch/export_versions, which shares PyTorch and the other packages of this interpreter. A tiny checkpoint of each
encoder family must give the same inputs, logits and tokens there as here.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

import torch
from tiny_backbones import tiny_tokenizer
from tiny_configs import TEXT_CONFIGS, VISION_CONFIGS

from panollava import PanoLlavaConfig, PanoLlavaForConditionalGeneration, PanoLlavaImageProcessor, PanoLlavaProcessor
from panollava.markdown import markdown_table

VERSIONS = ("5.16.0", "5.23.0")
ENVIRONMENTS = Path(".scratch/export_versions")
LOADER = Path(__file__).with_name("load_export.py")
# Encoder, layer that is read, language model, its chat template, resampler.
MODELS = {
    "clip-llama-mlp": ("clip", -2, "llama", "llama", "mlp"),
    "siglip-llama-perceiver": ("siglip", -1, "llama", "vicuna", "perceiver"),
    "dinov2-mistral-c_abstractor": ("dinov2", -1, "mistral", "mistral", "c_abstractor"),
    "dinov2_registers-llama-pooling": ("dinov2_registers", -2, "llama", "llama", "pooling"),
}


def environment(version: str) -> Path:
    """Return the Python of an environment with a version of transformers, made now if there is none."""
    folder = ENVIRONMENTS / version
    python = folder / "bin/python"
    if not (folder / "complete").is_file():
        venv.create(folder, clear=True, with_pip=True)
        own = next(folder.glob("lib/python*/site-packages"))
        (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"transformers=={version}"]
        # pip complains that this package asks for another version, which is the point.
        subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
        (folder / "complete").touch()
    return python.absolute()


def export(folder: Path, vision: str, layer: int, language: str, template: str, resampler: str) -> None:
    """Write a tiny checkpoint to `folder`, and beside it what it makes of two prompts about two panoramas."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(template)
    views = {"stride_deg": 90.0}
    images = PanoLlavaImageProcessor(size={"height": 32, "width": 32}, views=views)
    processor = PanoLlavaProcessor.from_parts(images, tokenizer, tokens_per_side=2, context_length=256)
    config = PanoLlavaConfig(
        vision_config=VISION_CONFIGS[vision](),
        text_config=TEXT_CONFIGS[language](vocab_size=len(tokenizer) - 1),
        image_token_id=processor.image_token_id,
        vision_feature_layer=layer,
        views=views,
        tokens_per_side=2,
        resampler=resampler,
        resampler_hidden_size=32,
        resampler_layers=1,
    )
    model = PanoLlavaForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    panoramas = list(torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.uint8))
    texts = ["<pano>\nWhat is to the left of the red cube?", "<pano>\nA ball?"]
    inputs = processor(images=panoramas, text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    said = model.generate(**inputs, do_sample=False, max_new_tokens=6, eos_token_id=None)
    expected = {"images": panoramas, "texts": texts, "inputs": dict(inputs), "logits": logits, "generated": said}
    torch.save(expected, folder.with_suffix(".pt"))


def load(python: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Open an export with another interpreter, in an empty folder and without the network."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    with tempfile.TemporaryDirectory() as empty:
        command = [python, LOADER.absolute(), folder, folder.with_suffix(".pt")]
        home = {"HF_HOME": empty, "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, capture_output=True, text=True, cwd=empty, env=kept | home, check=False)


def main(versions: tuple[str, ...], report: Callable[[str], None] = print) -> int:
    """Print a table, a row for each version and checkpoint; return 1 if anything differs."""
    rows, failures = [], []
    with tempfile.TemporaryDirectory() as root:
        for name, parts in MODELS.items():
            export(Path(root) / name, *parts)
        for version in versions:
            python = environment(version)
            for name in MODELS:
                done = load(python, Path(root) / name)
                found, difference = done.stdout.split()[-2:] if done.returncode == 0 else (version, "-")
                rows.append([found, name, difference, "as here" if done.returncode == 0 else "FAILED"])
                if done.returncode:
                    failures.append(f"{version} {name}:\n{done.stderr}")
    report(markdown_table(["transformers", "checkpoint", "largest difference of logits", "result"], rows, left=2))
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or VERSIONS))
