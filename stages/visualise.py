"""Stage visualise: draw the figures and write the report, from predictions, metrics, loss curves and the test split."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from panollava.params import Model, Weights, read_params
from panollava.report.html import write_report
from panollava.vlm.views import VIEW_SETTINGS


class Settings(BaseModel):
    """The parameters of the section `visualise`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    samples: int


class VisualiseParams(BaseModel):
    """What this stage reads from params.yaml."""

    model_config = ConfigDict(extra="forbid", strict=True)

    seed: int
    weights: Weights
    model: dict[Weights, Model]
    visualise: Settings


def main() -> None:
    """Write plots/figures/*.png and plots/report.html."""
    params = read_params(VisualiseParams, stage="visualise")
    model = params.model[params.weights]
    written = write_report(
        Path("data/evaluate/predictions.jsonl"),
        Path("metrics"),
        Path("plots"),
        Path("data/store"),
        Path("plots/figures"),
        Path("plots/report.html"),
        views={name: value for name, value in model if name in VIEW_SETTINGS},
        samples=params.visualise.samples,
        seed=params.seed,
    )
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
