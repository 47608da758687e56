"""All tasks by name, and the measures by which runs are compared. A new task is a module and a row here."""

from panollava.tasks.choice import CHOICE
from panollava.tasks.detection import DETECTION
from panollava.tasks.direction import DIRECTION
from panollava.tasks.grounding import GROUNDING
from panollava.tasks.task import Measure, Task
from panollava.tasks.text import DESCRIPTION, OPEN

# In the order of the blocks of metrics/evaluate.json.
TASKS: dict[str, Task] = {
    "choice": CHOICE,
    "direction": DIRECTION,
    "grounding": GROUNDING,
    "detection": DETECTION,
    "description": DESCRIPTION,
    "open": OPEN,
}
MEASURES: dict[str, Measure] = {measure.key: measure for task in TASKS.values() for measure in task.measures}
