"""The inference engine: greedy answers to many questions, each panorama prefilled once for all of its questions.

An engine belongs to one model and owns what is reused between calls: on a GPU persistent tensors and CUDA graphs.
Several threads may use it: a lock lets one call at a time work.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from threading import RLock
from typing import Concatenate, ParamSpec, TypeVar

import torch
from PIL import Image
from torch import Tensor

from panollava.attention.cuda_graphs import GraphCache
from panollava.attention.plan import use_plans
from panollava.corpus.messages import Message
from panollava.inference.answer import UNANSWERED, Answer, answer_of
from panollava.inference.decode import Decoded, Limits, decode_growing
from panollava.inference.decode_static import decode_static
from panollava.inference.prefill import prefill
from panollava.inference.prompts import Prefix, Row, batches, prompt_ids, room_for_answer, split_prompts
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

Decode = Callable[[Prefix, Sequence[Row], Limits], Decoded]
Given = ParamSpec("Given")
Result = TypeVar("Result")


def _locked(method: "Callable[Concatenate[Engine, Given], Result]") -> "Callable[Concatenate[Engine, Given], Result]":
    """Let a method hold the engine's lock."""

    @wraps(method)
    def alone(engine: "Engine", *args: Given.args, **kwargs: Given.kwargs) -> Result:
        with engine.lock:
            return method(engine, *args, **kwargs)

    return alone


class Engine:
    """Answer questions with one model, in evaluation mode.

    Each public method holds `lock`. Hold it around several calls that belong together, and around every other use of
    the model, its weights and its processor while threads answer.

    With `compiled`, for a GPU that answers for long: the language model is compiled, half a minute for each new length
    of prompts and answers, and faster from then on.

    Raises:
        ValueError: `compiled` without a GPU.
    """

    def __init__(
        self, model: PanoLlavaForConditionalGeneration, processor: PanoLlavaProcessor, *, compiled: bool = False
    ) -> None:
        if compiled and model.device.type != "cuda":
            raise ValueError(f"compiled is for a GPU, and the model is on {model.device}; leave it out")
        use_plans(model.model.language_model)
        self.model, self.processor, self.compiled = model.eval(), processor, compiled
        self.graphs = GraphCache(model)
        self.lock = RLock()
        self.weights_version = 0

    @_locked
    def weights_changed(self) -> None:
        """Forget what was made of the weights before; call it after any change of weights or layers.

        A `Prefix` made before belongs to another `weights_version`, and must be computed again.
        """
        self.weights_version += 1
        self.graphs.clear()

    @_locked
    @torch.inference_mode()
    def prefill(self, panoramas: Sequence[Image.Image], head: list[int]) -> Prefix:
        """Return the prefix of P panoramas: `head`, the visual tokens, and the keys and values of both.

        Raises:
            ValueError: the prefix is longer than the context.
        """
        views = self.processor.image_processor(list(panoramas), return_tensors="pt").to(self.model.device)
        self.processor.require_context(
            "the panorama", len(head) + self.processor.tokens_of_panorama(views["view_poses"][0])
        )
        return prefill(self.graphs, head, views["pixel_values"], views["view_poses"], compiled=self.compiled)

    @_locked
    @torch.inference_mode()
    def decode(self, prefix: Prefix, batch: Sequence[Row], limits: Limits) -> Decoded:
        """Return the tokens of rows with the same longest answer."""
        if self.model.device.type == "cuda":
            return decode_static(self.graphs, prefix, batch, limits, compiled=self.compiled)
        return decode_growing(self.model, prefix, batch, limits)

    @_locked
    @torch.inference_mode()
    def generate(self, prefix: Prefix, batch: Sequence[Row], *, min_new_tokens: int = 0) -> list[Answer]:
        """Return the answers of rows with the same longest answer, each at least `min_new_tokens` long."""
        eos, tokenizer = self.model.generation_config.eos_token_id, self.processor.tokenizer
        ends = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
        decoded = self.decode(prefix, batch, Limits(ends, tokenizer.pad_token_id, min_new_tokens))
        patches = self._patches(prefix, batch, decoded.prompt_state)
        rows = zip(decoded.tokens.tolist(), decoded.scores.tolist(), patches, strict=True)
        return [answer_of(tokenizer, tokens, scores, ends, scored) for tokens, scores, scored in rows]

    @_locked
    def answer(
        self,
        panoramas: Sequence[Image.Image],
        dialogues: Sequence[Sequence[list[Message]]],
        *,
        max_new_tokens: Sequence[Sequence[int]],
        masked: Sequence[Sequence[bool]] | None = None,
        skip_long: bool = False,
    ) -> list[list[Answer]]:
        """Answer `dialogues[p]`, each ending with a question, about panorama p, with at most `max_new_tokens` each.

        Those that are `masked` get scores of patches too; none by default. An answer ends at the latest where the
        language model's context ends. With `skip_long`, a dialogue that leaves no room for an answer is `UNANSWERED`.

        Raises:
            ValueError: a dialogue without exactly one panorama, or one that leaves no room, without `skip_long`.
        """
        asked = [dialogue for own in dialogues for dialogue in own]
        if not asked:
            return [[] for _ in panoramas]
        owners = [panorama for panorama, own in enumerate(dialogues) for _ in own]
        head, tails = split_prompts(self.processor, asked)
        budgets = [budget for own in max_new_tokens for budget in own]
        wanted = [False] * len(asked) if masked is None else [one for own in masked for one in own]
        prefix = self.prefill(panoramas, head)
        columns = zip(owners, tails, asked, budgets, wanted, strict=True)
        rows = [
            Row(index, owner, tail, min(budget, self._room(dialogue, len(prefix.ids) + len(tail), skip_long)), mask)
            for index, (owner, tail, dialogue, budget, mask) in enumerate(columns)
        ]
        answers = iter(self._answer_rows(prefix, rows))
        return [[next(answers) for _ in own] for own in dialogues]

    @_locked
    def answer_blind(
        self, dialogues: Sequence[list[Message]], *, max_new_tokens: Sequence[int], skip_long: bool = False
    ) -> list[Answer]:
        """Answer dialogues about a panorama without showing it: the same tokens without the placeholder, as in
        training.

        Equal questions then have equal answers and are asked once; `skip_long` as for `answer`.
        """
        head, tails = split_prompts(self.processor, dialogues)
        prompts = [
            ((*head, *tail), min(budget, self._room(dialogue, len(head) + len(tail), skip_long)))
            for tail, dialogue, budget in zip(tails, dialogues, max_new_tokens, strict=True)
        ]
        distinct = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        rows = [Row(index, 0, list(ids), budget) for (ids, budget), index in distinct.items()]
        answers = self._answer_rows(Prefix([]), rows)
        return [answers[distinct[prompt]] for prompt in prompts]

    @_locked
    def answer_text(self, dialogues: Sequence[list[Message]], *, max_new_tokens: Sequence[int]) -> list[Answer]:
        """Answer dialogues about no panorama, see `messages.without_panorama`.

        Raises:
            ValueError: a dialogue that leaves no room for an answer.
        """
        columns = zip(prompt_ids(self.processor, dialogues), dialogues, max_new_tokens, strict=True)
        rows = [
            Row(index, 0, ids, min(budget, room_for_answer(self.processor, dialogue, len(ids))))
            for index, (ids, dialogue, budget) in enumerate(columns)
        ]
        return self._answer_rows(Prefix([]), rows)

    def _room(self, dialogue: list[Message], length: int, skip_long: bool) -> int:
        if skip_long and length >= self.processor.context_length:
            return 0
        return room_for_answer(self.processor, dialogue, length)

    def _answer_rows(self, prefix: Prefix, rows: Sequence[Row]) -> list[Answer]:
        """Return one answer per row, in the order of `Row.index`; a row without room for one is not answered."""
        answers = {row.index: UNANSWERED for row in rows if not row.max_new_tokens}
        for batch in batches([row for row in rows if row.max_new_tokens]):
            found = self.generate(prefix, batch)
            answers |= {row.index: answer for row, answer in zip(batch, found, strict=True)}
        return [answers[index] for index in range(len(rows))]

    def _patches(self, prefix: Prefix, batch: Sequence[Row], states: Tensor) -> list[Tensor | None]:
        """Return the scores `[V, h, w]` of patches for rows that ask for a mask; `states` `[R, D]` are the rows'."""
        masked = [number for number, row in enumerate(batch) if row.masked]
        if not masked:
            return [None] * len(batch)
        owners = torch.tensor([batch[number].panorama for number in masked], device=states.device)
        scores = self.model.score_patches(states[masked], prefix.grids, prefix.poses, owners).cpu()
        found = dict(zip(masked, scores, strict=True))
        return [found.get(number) for number in range(len(batch))]
