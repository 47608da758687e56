"""The panoramas of a step in order of length, so that its batches hold rows of similar length and little padding.

A step sees the panoramas that it would see anyway, so its gradient is the same to rounding. The samplers of
`transformers` that group by length need the length of every draw of a run before its first step, and draw the epochs'
panoramas in one heap.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from torch.utils.data import Dataset

from panollava.corpus.records import Record
from panollava.training.data import Draw, Draws


class ByLength(Dataset):
    """Draws, those of each step from the longest row to the shortest: a pure function of the index, as draws are."""

    def __init__(
        self, draws: Draws, texts: Draws, *, panoramas: int, length: Callable[[Sequence[Record]], int]
    ) -> None:
        """Take the draws of steps of so many `panoramas`; `texts` are the same draws with no image to be decoded."""
        self.draws, self.texts, self.panoramas, self.length = draws, texts, panoramas, length

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> Draw:
        step, place = divmod(index, self.panoramas)
        return self.draws[order_of_step(self, step)[place]]


@lru_cache(maxsize=2)  # a batch that is made ahead may be the next step's
def order_of_step(draws: ByLength, step: int) -> list[int]:
    """Return the indices of a step's draws, the longest first."""
    first = step * draws.panoramas
    indices = range(first, min(first + draws.panoramas, len(draws)))
    return sorted(indices, key=lambda index: draws.length(draws.texts[index].records), reverse=True)
