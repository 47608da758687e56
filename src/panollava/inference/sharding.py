"""Divide the answering of questions among the processes of one run; `accelerate launch` and `torchrun` start them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

Group = TypeVar("Group")
Result = TypeVar("Result")


def by_turns(groups: Sequence[Group], work: Callable[[Group], list[Result]], *, desc: str, unit: str) -> list[Result]:
    """Return what `work` gives for all groups, in their order, on every process; each process works on its share.

    The groups themselves stay whole: what is computed together, and so every digit, is the same for any number of
    processes.
    """
    state = PartialState()
    places = range(state.process_index, len(groups), state.num_processes)
    progress = tqdm(places, desc=desc, unit=unit, disable=not state.is_main_process)
    found = gather_object([(place, work(groups[place])) for place in progress])
    return [result for _, results in sorted(found, key=lambda item: item[0]) for result in results]
