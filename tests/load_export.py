"""Open an exported checkpoint with transformers alone, and compare it with what `tests/export_versions.py` expects.

Called as `load_export.py CHECKPOINT EXPECTED`; it knows nothing of PanoLLaVA, which must not be installed. Prints the
version of transformers and the largest difference of the logits.
"""

import sys

import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor


def main(checkpoint: str, expected_file: str) -> None:
    """Load, compute the logits, and generate alone, in a batch and with a static cache."""
    sys.modules["panollava"] = None  # type: ignore[assignment] # importing it fails
    expected = torch.load(expected_file, weights_only=True)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    inputs = processor(images=expected["images"], text=expected["texts"], padding=True, return_tensors="pt")
    for name, value in expected["inputs"].items():
        torch.testing.assert_close(inputs[name], value, rtol=0, atol=1e-6)
    with torch.no_grad():
        logits = model(**inputs).logits
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-4)
    for settings in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        said = model.generate(**inputs, do_sample=False, max_new_tokens=6, eos_token_id=None, **settings)
        assert torch.equal(said, expected["generated"]), f"other tokens with {settings}"
    model.generate(**inputs, num_beams=2, max_new_tokens=2)
    print(transformers.__version__, f"{float((logits - expected['logits']).abs().max()):.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
