"""The stages of dvc.yaml, run as `python -m stages.NAME`: read the parameters, call the package, write the outputs.

A queued or temporary experiment runs in a copy of the project, while an editable installation leads to the main
workspace. The package beside this folder therefore comes first on the path: a stage runs its own snapshot's code.
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))


def run_stage(main: Callable[[], None]) -> None:
    """Run the main function of a stage, and exit; what a user can cause ends in a message, not in a traceback.

    `python -X dev -m stages.NAME` shows the traceback.
    """
    from panollava import terminal

    def stage() -> int:
        main()
        return 0

    sys.exit(terminal.run(Path(sys.argv[0]).stem, stage))
