"""Answer the questions of panoramas and score the answers: by the model, shown another panorama, and by the blind twin.

Processes share the work; each returns all predictions. A question that the context does not hold is not answered, which
counts as a wrong answer.
"""

from collections.abc import Sequence

import datasets
import torch
from torch import Tensor

from panollava.inference.answer import Answer
from panollava.inference.engine import Engine
from panollava.inference.sharding import shard_by_rank
from panollava.tasks.prediction import Prediction, Variant
from panollava.tasks.questions import Question, derangement
from panollava.tasks.scoring import score
from panollava.tasks.segmentation import score_masks
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration

BLIND_AT_ONCE = 512


def answer_with_images(
    engine: Engine,
    split: datasets.Dataset,
    questions: Sequence[Sequence[Question]],
    *,
    shuffled: int,
    batch_size: int,
    seed: int,
    constant: Tensor,
) -> list[Prediction]:
    """Return the predictions of the variants `model` and `shuffled` for the questions of each panorama of a split.

    A panorama answers its own questions together with those of the one panorama in whose place it is shown, so it is
    computed once for both. The questions of the first `shuffled` panoramas are enough for a floor; a single panorama
    has no other to take its place. `batch_size` panoramas are answered together. Masks are compared with the
    `constant` one too (`segmentation.constant_mask`).
    """
    asked: list[list[tuple[Variant, Question]]] = [[("model", question) for question in own] for own in questions]
    if len(questions) > 1:
        for panorama, shown in enumerate(derangement(len(questions), seed)[:shuffled]):
            asked[shown] += [("shuffled", question) for question in questions[panorama]]

    def answer(panoramas: range) -> list[Prediction]:
        group = [asked[index] for index in panoramas]
        answers = engine.answer(
            [split[index]["image"].convert("RGB") for index in panoramas],
            [[question.messages for _, question in own] for own in group],
            max_new_tokens=[[question.max_new_tokens for _, question in own] for own in group],
            masked=[[question.mask is not None for _, question in own] for own in group],
            skip_long=True,
        )
        answered = [
            (variant, question, answer)
            for own, found in zip(group, answers, strict=True)
            for (variant, question), answer in zip(own, found, strict=True)
        ]
        return with_masks(engine.model, answered, constant)

    return shard_by_rank(groups_of(len(asked), batch_size), answer, desc="answer", unit="batch")


def with_masks(
    model: PanoLlavaForConditionalGeneration, answered: Sequence[tuple[Variant, Question, Answer]], constant: Tensor
) -> list[Prediction]:
    """Return the predictions of answers; those with masks are compared with the `constant` mask too.

    The mask of a question that was not answered is empty.
    """
    predictions = [score(*one) for one in answered]
    side, poses = model.config.patch_side, model.model.default_poses(torch.zeros(1))[0]
    nothing = torch.full((len(poses), side, side), -1.0)
    masked = [
        (number, nothing if answer.patches is None else answer.patches)
        for number, (_, question, answer) in enumerate(answered)
        if question.mask is not None
    ]
    if masked:
        scored = score_masks([(answered[number][1].true_mask, patches) for number, patches in masked], poses, constant)
        for (number, _), fields in zip(masked, scored, strict=True):
            predictions[number] = predictions[number].model_copy(update=fields)
    return predictions


def answer_blind_twin(engine: Engine, questions: Sequence[Question]) -> list[Prediction]:
    """Return the predictions of the variant `blind`, given by the twin that was finetuned without visual tokens."""
    # Equal questions side by side are asked once.
    ordered = sorted(questions, key=lambda q: (q.max_new_tokens, len(q.messages), q.content.human))

    def answer(indices: range) -> list[Prediction]:
        group = [ordered[index] for index in indices]
        budgets = [question.max_new_tokens for question in group]
        answers = engine.answer_blind([question.messages for question in group], max_new_tokens=budgets, skip_long=True)
        return [score("blind", *pair) for pair in zip(group, answers, strict=True)]

    return shard_by_rank(groups_of(len(ordered), BLIND_AT_ONCE), answer, desc="answer blind", unit="batch")


def groups_of(count: int, size: int) -> list[range]:
    """Return the indices below `count` in groups of `size`, the last of which may be smaller."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
