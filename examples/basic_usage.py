"""Ask a trained model about one panorama: a question, a short dialogue, all objects of a kind, and a mask.

    python examples/basic_usage.py panorama.jpg
    python examples/basic_usage.py panorama.jpg --model my/checkpoint --object "the door"

Run it in the project's folder after `make repro`, or name a --model: a trained folder, a full checkpoint or a hub id.
"""

import argparse
from pathlib import Path

from PIL import Image
from transformers.utils.logging import disable_progress_bar

from panollava import PanoLLaVAModel


def main() -> None:
    """Print the answers and write the mask."""
    parser = argparse.ArgumentParser(description="Ask a trained PanoLLaVA about one panorama.")
    parser.add_argument("panorama", type=Path, help="an equirectangular image, twice as wide as high")
    parser.add_argument("--model", default="data/finetune_lora", help="what to open (default: %(default)s)")
    parser.add_argument("--object", default="the red cube", help="what to look for (default: %(default)s)")
    parser.add_argument("--mask", type=Path, default=Path("mask.png"), help="the PNG to write (default: %(default)s)")
    options = parser.parse_args()

    # A GPU is used where there is one. LoRA weights are merged on loading.
    disable_progress_bar()
    model = PanoLLaVAModel.from_pretrained(options.model)
    panorama = options.panorama  # a file, or an image of PIL

    # One question, one answer. Directions are degrees to the right of the image's centre and above the horizon.
    question = f"Where is {options.object}, in degrees?"
    print(f"Q: {question}\nA: {model.generate(panorama, question)}\n")

    # A dialogue: each question sees the earlier ones. The panorama is encoded once, so later questions are fast.
    conversation = model.chat(panorama)
    for question in (
        f"In which direction is {options.object}?",
        "And what comes next to its left?",
        "Which way is that?",
    ):
        print(f"Q: {question}\nA: {conversation.ask(question)}\n")

    # Detection returns boxes as (yaw, pitch, width, height) in degrees on the sphere.
    try:
        for found in model.detect(panorama, "everything"):
            print(f"found {found.label} at {found.box_deg}")
    except ValueError as error:  # the model answered with something other than a list of boxes
        print(f"nothing detected: {error}")

    # A mask has the panorama's size: True where the object is.
    mask = model.segment(panorama, f"Give the box of {options.object}.")
    Image.fromarray(mask).save(options.mask)
    print(f"\n{options.mask}: {mask.mean():.1%} of the pixels are {options.object}")


if __name__ == "__main__":
    main()
