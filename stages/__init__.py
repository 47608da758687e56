"""The stages of dvc.yaml, run as `python -m stages.NAME`: read the parameters, call the package, write the outputs.

A queued or temporary experiment runs in a copy of the project, while an editable installation leads to the main
workspace. The package beside this folder therefore comes first on the path: a stage runs its own snapshot's code.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
