"""The table of tasks: every task of records has a row, and names of blocks and measures are unique."""

from typing import get_args

import pytest
from task_data import question, world_questions

from panollava.corpus.records import Task as TaskName
from panollava.inference.answer import Answer
from panollava.report.tables import score_rows
from panollava.tasks.block_scores import evaluate
from panollava.tasks.prediction import Prediction
from panollava.tasks.scorer import interval_block, mean
from panollava.tasks.scoring import score
from panollava.tasks.table import MEASURES, TASKS
from panollava.tasks.task import ScoreBlock, ScoreNumber, Task


def test_every_task_of_records_has_a_row() -> None:
    assert set(TASKS) == set(get_args(TaskName))
    assert all(name == task.name for name, task in TASKS.items())


def test_blocks_and_measures_have_names_of_their_own() -> None:
    blocks = [block.name for task in TASKS.values() for block in task.blocks]
    measures = [measure.key for task in TASKS.values() for measure in task.measures]
    assert len(set(blocks)) == len(blocks)
    assert list(MEASURES) == measures
    # A measure names a number of a block of metrics/evaluate.json, and compares in one way.
    for measure in MEASURES.values():
        assert not measure.metric or measure.metric.split(".")[0] in blocks
        assert (measure.values is None) != (measure.statistic is None)


def test_a_prediction_of_a_task_passes_its_own_check_and_belongs_to_a_block_of_it() -> None:
    asked = [q for own in world_questions(2) for q in own] + [question("open", None)]
    said: list[Prediction] = [score("model", q, Answer(q.content.assistant, 0.5)) for q in asked]
    assert {p.task for p in said} == set(TASKS)
    for prediction in said:
        task = TASKS[prediction.task]
        task.check(prediction)
        assert any(block.belongs(prediction) for block in task.blocks)
        assert task.right(prediction) in (True, None)
        assert (task.right(prediction) is None) == (task.rotated is None)


def test_one_row_gives_a_new_task_its_scores_and_its_rows_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def lengths(scorer):
        said = scorer.of("model")
        values = [float(len(p.prediction)) for p in said]
        block = interval_block("letters", said, scorer.mean_interval(said, values)) if said else {}
        return block | {name: mean(len(p.prediction) for p in others) for name, others in scorer.baselines.items()}

    length = Task(
        name="length",
        max_new_tokens=8,
        score=lambda said, turn: {},
        blocks=(ScoreBlock("length", lengths, (ScoreNumber("length of an answer", "letters", "{}"),)),),
        measures=(),
    )
    monkeypatch.setitem(TASKS, "length", length)
    opened = score("model", question("open", None), Answer("four", 1.0))
    said = [opened.model_copy(update={"task": "length", "variant": variant}) for variant in ("model", "blind")]
    scores = evaluate(said, resamples=5, seed=0)["en"]
    assert scores == {"length": {"letters": 4, "low": 4, "high": 4, "n": 1, "blind": 4}}
    assert [(row.name, row.value, row.blind, row.headline) for row in score_rows("en", scores)] == [
        ("length of an answer", "4.000", "4.000", True)
    ]
