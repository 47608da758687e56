"""Stage resolve_llm: resolve the language model named in params.yaml to a folder or a commit on the hub."""

from pathlib import Path

from panollava.backbones.presets import write_pointer
from panollava.backbones.resolving import resolve_llm
from panollava.params import LlmPreset, Strict, Weights, read_params
from stages import run_stage


class LlmParams(Strict):
    """What this stage reads from params.yaml."""

    weights: Weights
    llm: str
    llms: dict[str, LlmPreset]


def main() -> None:
    """Write data/llm.json."""
    params = read_params(LlmParams, stage="resolve_llm")
    preset = params.llms[params.llm]
    source = preset.standin if params.weights == "standin" else preset.hub
    backbone = resolve_llm(params.llm, source, chat_template=preset.chat_template)
    write_pointer(backbone, Path("data/llm.json"))
    print(f"language model {backbone.name}: {backbone.source} {backbone.fingerprint[:12]}")


if __name__ == "__main__":
    run_stage(main)
