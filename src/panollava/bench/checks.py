"""That two sides compute the same, before anything is timed: losses, gradients, tokens."""

from collections.abc import Mapping

from torch import Tensor


def check_losses(name: str, found: float, wanted: float, tolerance: float) -> float:
    """Return how far a loss is from the one it should be, relative to it.

    Raises:
        ValueError: it is further than `tolerance`.
    """
    apart = abs(found - wanted) / abs(wanted)
    if not apart <= tolerance:
        raise ValueError(f"{name}: the loss is {found:.7g}, not {wanted:.7g}; a relative {tolerance:g} is the same")
    return apart


def check_gradients(
    name: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float
) -> tuple[float, int]:
    """Return how far gradients are from those they should be, relative to their norms: the worst, and how many.

    Raises:
        ValueError: other parameters have gradients; a gradient that is zero, or further than `tolerance`.
    """
    if found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys())
        raise ValueError(f"{name}: {len(odd)} parameters have a gradient on one side alone, {odd[0]} for one")
    worst = 0.0
    for parameter, gradient in wanted.items():
        norm = float(gradient.float().norm())
        apart = float((found[parameter].float() - gradient.float()).norm())
        if not (norm > 0 and apart <= tolerance * norm):
            raise ValueError(
                f"{name}: the gradient of {parameter} has norm {norm:.3g} and is {apart:.3g} off; a relative "
                f"{tolerance:g} is the same"
            )
        worst = max(worst, apart / norm)
    return worst, len(wanted)


def check_tokens(name: str, said: Tensor, wanted: Tensor, logits: Tensor, tolerance: float) -> float:
    """Return the share of tokens `[R, T]` that are those of the other side.

    Where the tolerance is not zero, a token may instead be one of the best by the other side's own `logits`
    `[R, T, vocabulary]` of what was said: at most so many of their standard deviations from the first.

    Raises:
        ValueError: another token.
    """
    behind = logits.amax(-1) - logits.gather(-1, said[..., None])[..., 0]
    allowed = behind <= tolerance * logits.std(-1) if tolerance else said == wanted
    if not bool(allowed.all()):
        row, place = (~allowed).nonzero()[0].tolist()
        raise ValueError(
            f"{name}: token {place} of answer {row} is {int(said[row, place])}, not {int(wanted[row, place])}; its "
            f"logit is {float(behind[row, place]):.3g} behind the best"
        )
    return float((said == wanted).double().mean())
