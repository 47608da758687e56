"""Work that the processes of one training run share; `accelerate launch` and `torchrun` start them.

A launch changes no result: the recipe says what a step sees, and the processes divide it. Files are written by the main
process alone.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.distributed.nn.functional import all_gather

Value = TypeVar("Value")


def from_main(compute: Callable[[], Value]) -> Value:
    """Return what `compute` gives on the main process, on every process."""
    value = [compute() if PartialState().is_main_process else None]
    return broadcast_object_list(value)[0]


def from_all(values: Tensor) -> Tensor:
    """Return the values `[P, ...]` of all processes behind each other, with gradients for the process of each."""
    return values if PartialState().num_processes == 1 else torch.cat(all_gather(values))


def share_of_step(batch_size: int, accumulation: int, processes: int, *, whole_batches: bool) -> tuple[int, int]:
    """Return the batch size and accumulation with which processes together take one step of `batch_size` panoramas.

    A step is `accumulation` batches. With `whole_batches`, for losses that compare the panoramas of a batch, each batch
    is divided; otherwise the step, so that the batches in memory stay as large as they may be.

    Raises:
        ValueError: a step that cannot be divided.
    """
    panoramas = batch_size if whole_batches else batch_size * accumulation
    share, rest = divmod(panoramas, processes)
    if rest:
        product = "batch_size" if whole_batches else "batch_size x accumulation"
        raise ValueError(
            f"{product} is {panoramas} panoramas, which {processes} processes cannot divide evenly; "
            f"set it to a multiple of {processes}, or launch another number of processes"
        )
    if whole_batches:
        return share, accumulation
    size = max(size for size in range(1, batch_size + 1) if share % size == 0)
    return size, share // size


def divided() -> bool:
    """Return whether this run was launched to divide the model among the processes."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_launch() -> None:
    """Refuse the ways of sharding a model that the stages cannot work under.

    Raises:
        ValueError: FSDP 1; FSDP with weights on the main process alone, while every process computes features.
    """
    if not divided():
        return
    if os.environ.get("FSDP_VERSION") != "2":
        raise ValueError(f"fsdp_version is {os.environ.get('FSDP_VERSION')}; set it to 2 (docs/fsdp.yaml)")
    if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true":
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading is true; set it to false: every process encodes panoramas before the model "
            "is sharded, and needs the weights for it"
        )
