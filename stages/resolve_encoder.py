"""Stage resolve_encoder: resolve the encoder named in params.yaml to a folder or a commit on the hub."""

from pathlib import Path

from panollava.backbones.presets import write_pointer
from panollava.backbones.resolving import resolve_encoder
from panollava.params import EncoderPreset, Strict, Weights, read_params
from stages import run_stage


class EncoderParams(Strict):
    """What this stage reads from params.yaml."""

    weights: Weights
    encoder: str
    encoders: dict[str, EncoderPreset]


def main() -> None:
    """Write data/encoder.json."""
    params = read_params(EncoderParams, stage="resolve_encoder")
    preset = params.encoders[params.encoder]
    source = preset.standin if params.weights == "standin" else preset.hub
    backbone = resolve_encoder(params.encoder, source, feature_layer=preset.feature_layer, view_size=preset.view_size)
    write_pointer(backbone, Path("data/encoder.json"))
    print(f"encoder {backbone.name}: {backbone.source} {backbone.fingerprint[:12]}")


if __name__ == "__main__":
    run_stage(main)
