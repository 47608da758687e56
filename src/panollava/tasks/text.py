"""Free text: descriptions and open questions, scored as a corpus against all references of their questions.

The typed answer of these tasks is null; `metrics.text` has the scores.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from panollava.corpus.records import Turn
from panollava.metrics.intervals import clustered_statistic
from panollava.metrics.text import chrf, chrf_of_items, text_scores
from panollava.tasks.prediction import Prediction
from panollava.tasks.scorer import Block, Scorer
from panollava.tasks.task import Fields, Measure, Predictions, ScoreBlock, ScoreNumber, Task

if TYPE_CHECKING:
    from panollava.inference.answer import Answer

# Blocks of free text, and the keys of their scores, the headline first.
FREE_TEXT = {"description": "description", "open": "open questions"}
TEXT_SCORES = {"chrf": "chrF", "bleu": "BLEU", "rouge_l": "ROUGE-L", "cider": "CIDEr", "meteor": "METEOR"}


def score_text(answer: "Answer", turn: Turn) -> Fields:
    """Score nothing: free text is compared with its references as a corpus, later."""
    return {}


def free_text(scorer: Scorer) -> Block:
    """Return the scores of free answers (`metrics.text.text_scores`); `n` counts questions, however often asked.

    `low` and `high` bound chrF. `human_...` is the score of people: each reference against the others of its question.
    """
    predictions = scorer.of("model")
    if not predictions:
        return {}
    language = predictions[0].language
    answers, known = free_answers(predictions)
    resampled = chrf_of_items(answers, known)
    interval = clustered_statistic(lambda items: resampled(items.tolist()), _panoramas(predictions), **scorer.draws)
    scores = text_scores(answers, known, language)
    block: Block = {**scores, "low": interval.low, "high": interval.high, "n": len(answers)}
    block |= {f"human_{name}": value for name, value in human_scores(known, language).items()}
    if scorer.training:
        constant = Counter(p.reference for p in scorer.training).most_common(1)[0][0]
        constant_scores = text_scores([constant] * len(known), known, language)
        block |= {f"majority_{name}": value for name, value in constant_scores.items()}
    for variant, others in scorer.baselines.items():
        other_scores = text_scores(*free_answers(others), language)
        block |= {f"{variant}_{name}": value for name, value in other_scores.items()}
    return block


def free_answers(predictions: Predictions) -> tuple[list[str], list[list[str]]]:
    """Return the answers to free questions and, for each, all references that any prediction has for its question.

    A question in several records, each with its own reference, is one item, not several: otherwise one answer would
    count many times. Only different answers to a question are different items.
    """
    known = _known_references(predictions)
    answers = dict.fromkeys((_asked(p), p.prediction) for p in predictions)
    return [text for _, text in answers], [list(known[asked]) for asked, _ in answers]


def human_scores(references: Sequence[Sequence[str]], language: str) -> dict[str, float]:
    """Return how well people agree: each reference scored against the others of its question, where there are others.

    One reference of each question is taken at a time, and the scores are averaged over how often that can be done.
    """
    several = [list(texts) for texts in references if len(texts) > 1]
    if not several:
        return {}
    rounds = []
    for number in range(max(map(len, several))):
        asked = [texts for texts in several if number < len(texts)]
        others = [texts[:number] + texts[number + 1 :] for texts in asked]
        rounds.append(text_scores([texts[number] for texts in asked], others, language))
    names = set.intersection(*(set(scores) for scores in rounds))
    return {name: float(np.mean([scores[name] for scores in rounds])) for name in rounds[0] if name in names}


def chrf_of_each(predictions: Predictions) -> Sequence[float]:
    """Return the chrF of each answer; the corpus chrF of metrics/evaluate.json has no value of a single question."""
    known = _known_references(predictions)
    return [chrf([p.prediction], [list(known[_asked(p)])]) for p in predictions]


def _panoramas(predictions: Predictions) -> list[str]:
    """Return the panorama of each item of `free_answers`."""
    return [asked[0] for asked, _ in dict.fromkeys((_asked(p), p.prediction) for p in predictions)]


def _known_references(predictions: Predictions) -> dict[tuple[Any, ...], dict[str, None]]:
    """Return the references of each question, in their order and each once."""
    known: dict[tuple[Any, ...], dict[str, None]] = {}
    for prediction in predictions:
        known.setdefault(_asked(prediction), {}).update(dict.fromkeys(prediction.references))
    return known


def _asked(prediction: Prediction) -> tuple[Any, ...]:
    """Return the identity of a question; a later turn depends on its dialogue, so it is a question of its own."""
    return prediction.image_id, prediction.question, prediction.turn, prediction.record if prediction.turn else None


def _task(name: str, max_new_tokens: int) -> Task:
    title = FREE_TEXT[name]
    numbers = [ScoreNumber(f"{title}, {score}", key, f"{{}}_{key}") for key, score in TEXT_SCORES.items()]
    numbers += [
        ScoreNumber(f"{title}, people among themselves, {score}", f"human_{key}") for key, score in TEXT_SCORES.items()
    ]
    return Task(
        name=name,
        max_new_tokens=max_new_tokens,
        score=score_text,
        blocks=(ScoreBlock(name, free_text, tuple(numbers)),),
        measures=(Measure(name, f"{title}, mean chrF of an answer", "higher", "", chrf_of_each),),
    )


DESCRIPTION = _task("description", 192)
OPEN = _task("open", 96)
