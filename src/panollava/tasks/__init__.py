"""The tasks: questions for the model, scores of its answers, and the numbers of metrics/evaluate.json.

Each task is one module (choice, direction, grounding, detection, text) and one row of `table.TASKS`. A record of a new
task also needs its name and its typed answer in `corpus.records`.
"""
