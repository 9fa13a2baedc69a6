"""The tasks, by subject."""

from ..task import Task
from . import arguments, configs, datasets, jobs, memory, servers, training

_GROUPS = (arguments, configs, datasets, memory, jobs, servers, training)
TASKS: dict[str, Task] = {task.name: task for group in _GROUPS for task in group.TASKS}
