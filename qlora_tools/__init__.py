"""qlora-tools: fine-tune a language model with QLoRA on the GPU at hand.

    from qlora_tools import load_config, train, generate, merge

    result = train(load_config("run.yaml"))
    answers = generate(result.adapter_directory, ["Wake me at seven."])

Importing this package is cheap; what needs torch is imported when it is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._version import __version__

# In a checkout (and an editable install) server/ and templates/ lie beside this folder; in a wheel, inside it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "server" / "__init__.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

if TYPE_CHECKING:
    from .config import RunConfig, load_config, parse_config
    from .doctor import check_environment, diagnose
    from .engine.train import train
    from .errors import QloraError
    from .evaluation import evaluate
    from .exporting.export import export
    from .exporting.push import push
    from .foreign import lint_script
    from .foreign.importing import import_config
    from .generation.files import generate_file
    from .generation.generate import generate
    from .inspection import inspect_dataset, redact_dataset
    from .jobs import get_job, list_jobs, prune_jobs, read_log, resume_job, start_training, start_work, stop_job
    from .memory import estimate_memory
    from .merging.merge import merge
    from .planning import compare_configs, create_config
    from .scripts.changed import explain_script
    from .scripts.render import render_script
    from .serving import plan_serving, serve

_HOMES = {
    "QloraError": "errors",
    "RunConfig": "config",
    "check_environment": "doctor",
    "compare_configs": "planning",
    "create_config": "planning",
    "diagnose": "doctor",
    "estimate_memory": "memory",
    "export": "exporting",
    "evaluate": "evaluation",
    "explain_script": "scripts.changed",
    "generate": "generation",
    "generate_file": "generation",
    "get_job": "jobs",
    "import_config": "foreign.importing",
    "inspect_dataset": "inspection",
    "lint_script": "foreign",
    "list_jobs": "jobs",
    "load_config": "config",
    "merge": "merging",
    "parse_config": "config",
    "plan_serving": "serving",
    "prune_jobs": "jobs",
    "push": "exporting",
    "read_log": "jobs",
    "redact_dataset": "inspection",
    "render_script": "scripts.render",
    "resume_job": "jobs",
    "serve": "serving",
    "start_training": "jobs",
    "start_work": "jobs",
    "stop_job": "jobs",
    "train": "engine.train",
}

__all__ = [
    "QloraError",
    "RunConfig",
    "__version__",
    "check_environment",
    "compare_configs",
    "create_config",
    "diagnose",
    "estimate_memory",
    "evaluate",
    "explain_script",
    "export",
    "generate",
    "generate_file",
    "get_job",
    "import_config",
    "inspect_dataset",
    "lint_script",
    "list_jobs",
    "load_config",
    "merge",
    "parse_config",
    "plan_serving",
    "prune_jobs",
    "push",
    "read_log",
    "redact_dataset",
    "render_script",
    "resume_job",
    "serve",
    "start_training",
    "start_work",
    "stop_job",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
