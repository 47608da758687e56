"""Stage visualise: draw the figures and write the report, from predictions, metrics, loss curves and the test split."""

from pathlib import Path

from panollava.params import Model, Strict, Visualise, Weights, read_params
from panollava.report.page import write_report
from stages import run_stage


class VisualiseParams(Strict):
    """The parameters of this stage."""

    seed: int
    weights: Weights
    model: dict[Weights, Model]
    visualise: Visualise


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
        views=model.views,
        tokens_per_side=model.tokens_per_side,
        samples=params.visualise.samples,
        seed=params.seed,
    )
    for path in written:
        print(path)


if __name__ == "__main__":
    run_stage(main)
