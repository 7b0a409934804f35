"""`replace_ray_workflow`: programs that say `ray.workflow` get ours."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ray
from perdure import workflow
from perdure.workflow import replace_ray_workflow

try:
    ray.workflow
except (AttributeError, RuntimeError):
    pass
for _ in range(2):
    replace_ray_workflow()
assert ray.workflow is workflow
import ray.workflow
from ray import workflow as theirs
from ray.workflow import WorkflowStatus
from ray.workflow.event_listener import EventListener, TimerListener
from ray.workflow.exceptions import WorkflowExecutionError
from ray.workflow.http_event_provider import HTTPListener

assert ray.workflow is theirs is workflow
assert WorkflowExecutionError is workflow.exceptions.WorkflowExecutionError
assert EventListener is workflow.EventListener


@ray.workflow.options(task_id="three")
@ray.remote
def three():
    return 3


three.bind()
"""


def test_programs_that_name_ray_workflow_get_ours() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
