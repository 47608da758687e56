"""Train all stand-in backbones, or some of them: `python -m panollava.backbones.standins.train --out data/standins`.

The committed stand-ins were trained with the defaults, by six processes on two GPUs in eight minutes. Two CPU cores
need hours.
"""

import argparse
from pathlib import Path

import torch

from panollava.backbones.standins.encoders import SEEDS as ENCODERS
from panollava.backbones.standins.encoders import train_standin_encoder
from panollava.backbones.standins.llms import SEEDS as LLMS
from panollava.backbones.standins.llms import train_standin_llm
from panollava.io import replacing_folder


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train the stand-in encoders and language models.")
    parser.add_argument("--out", type=Path, default=Path("data/standins"))
    parser.add_argument("--only", nargs="*", choices=[*ENCODERS, *LLMS], default=[*ENCODERS, *LLMS])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that render and describe scenes")
    parser.add_argument("--llm-steps", type=int, default=7000)
    parser.add_argument("--encoder-steps", type=int, default=4200)
    parser.add_argument("--panoramas", type=int, default=8000)
    options = parser.parse_args(arguments)
    for name in options.only:
        common = {"workers": options.workers, "device": options.device}
        with replacing_folder(options.out / name) as folder:
            if name in LLMS:
                train_standin_llm(name, folder, steps=options.llm_steps, batch=64, **common)
            else:
                size = {"steps": options.encoder_steps, "batch": 256, "panoramas": options.panoramas}
                train_standin_encoder(name, folder, **size, **common)


if __name__ == "__main__":
    main()
