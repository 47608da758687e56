"""Shard work among the processes of one run; `accelerate launch` and `torchrun` start them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

Group = TypeVar("Group")
Result = TypeVar("Result")


def shard_by_rank(
    groups: Sequence[Group], work: Callable[[Group], list[Result]], *, desc: str, unit: str
) -> list[Result]:
    """Return the results of `work` for all groups, in their order, on every process; each rank works on its share.

    The groups themselves stay whole: what is computed together, and so every digit, is the same for any number of
    processes.
    """
    state = PartialState()
    indices = range(state.process_index, len(groups), state.num_processes)
    progress = tqdm(indices, desc=desc, unit=unit, disable=not state.is_main_process)
    found = gather_object([(index, work(groups[index])) for index in progress])
    return [result for _, results in sorted(found, key=lambda item: item[0]) for result in results]
