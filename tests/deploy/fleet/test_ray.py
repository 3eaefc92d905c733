"""The same fleet on Ray Data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_fleet import assert_all_done, make_tasks, states

from breastseg_deploy.errors import MachineError
from breastseg_deploy.fleet.on_ray import start_ray
from breastseg_deploy.fleet.task import Task

_PROGRAM = """
import sys
from pathlib import Path
from fleet_jobs import Reverse
from breastseg_deploy.fleet.on_ray import work_on_ray
from breastseg_deploy.fleet.task import Task

output = Path(sys.argv[1])
tasks = [Task(Path(one).stem, Path(one)) for one in sys.argv[2:]]
work_on_ray(tasks, Reverse(output, fails=("slide-001",)), output, workers=2, retries=1)
"""


def test_ray_settles_every_input_once(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    output = tmp_path / "out"
    output.mkdir()
    tasks = make_tasks(tmp_path, 8)

    _work_on_ray(output, tasks)

    told = states(output)
    assert [name for name, (state, _) in told.items() if state == "set aside"] == ["slide-001"]
    assert_all_done([task for task in tasks if task.name != "slide-001"], output)


@pytest.mark.parametrize(
    ("address", "err", "sentence"),
    [
        ("local", Exception("The current node timed out during startup."), "Ray does not start here .* less to do"),
        (
            "10.0.0.1:6379",
            ConnectionError("refused"),
            r"no Ray cluster answers at 10\.0\.0\.1:6379 .*`ray start --head`",
        ),
    ],
)
def test_a_ray_that_does_not_start_ends_in_a_sentence(address: str, err: Exception, sentence: str) -> None:
    class Ray:
        def init(self, **_: object) -> None:
            raise err

    with pytest.raises(MachineError, match=sentence):
        start_ray(Ray(), address)


def _work_on_ray(output: Path, tasks: list[Task]) -> None:
    """In a process of its own: Ray starts servers, and leaves sockets open that the tests' warnings would be about."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *sys.path])
    words = [sys.executable, "-c", _PROGRAM, str(output), *(str(task.path) for task in tasks)]
    subprocess.run(
        words, check=True, timeout=300, env=os.environ | {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    )
