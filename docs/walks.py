"""Print the modules of the package that run between an image and its answer, and between a question and its loss.

Run it in the project's folder after `make repro`: python docs/walks.py. The page Architecture quotes its counts.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image

import panollava
from panollava import PanoLLaVAModel
from panollava.attention.plan import use_plans
from panollava.backbones.trained import load_finetuned
from panollava.corpus.store import open_split
from panollava.training.dialogues import Collator, Draws, StoredPanoramas
from panollava.training.encoding import FrozenEncoder
from panollava.training.recipe import Augmentation

PACKAGE = Path(panollava.__file__).parent
MODEL = Path("data/finetune_lora")


@contextmanager
def walk(name: str) -> Iterator[None]:
    """Print the modules whose functions run inside, in the order of their first call."""
    modules: dict[str, None] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(PACKAGE):
            modules[str(file.relative_to(PACKAGE).with_suffix(""))] = None

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
    print(f"{name}: {len(modules)} modules\n  " + "\n  ".join(modules))


def main() -> None:
    """Print both walks."""
    model = PanoLLaVAModel.from_pretrained(MODEL, device="cpu")
    file = Path(".scratch/walk.png")
    Image.new("RGB", (512, 256)).save(file)
    with walk("image → answer"):
        model.generate(file, "Where is the red cube?", max_new_tokens=4)
    file.unlink()

    trained, processor = load_finetuned(MODEL)
    use_plans(trained.model.language_model)
    trained.train()
    trained.model.vision_tower.requires_grad_(False)
    panoramas = StoredPanoramas(open_split(Path("data/store"), "train"))
    with walk("question → loss"):
        draws = Draws(panoramas, seed=0, count=8, records=4, augmentation=Augmentation(8))
        batch = FrozenEncoder.of(trained).with_grids(Collator(processor)([draws[0], draws[1]]))
        trained(**batch)


if __name__ == "__main__":
    main()
