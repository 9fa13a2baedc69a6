"""Three equal paths: a rendered script trains to the losses of `train`, in an environment that lacks this package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools import parse_config, train
from qlora_tools.scripts.render import render_script

from .script_runs import RunScript, losses_of, run_script  # noqa: F401

pytestmark = pytest.mark.process


@pytest.fixture
def both(
    tmp_path: Path, run_script: RunScript, config_for: Callable[..., dict[str, Any]]
) -> Callable[..., tuple[Any, Path]]:
    """Train a config here, render and run its script; returns the result here and the script's output directory."""

    def ran(model: Path, rows: Path, **parts: dict[str, Any]) -> tuple[Any, Path]:
        here = parse_config(config_for(model, rows, **parts), source="here")
        there = parse_config(config_for(model, rows, **parts), source="there")
        script = tmp_path / "train.py"
        render_script(there, output=script, overwrite=True)
        result = train(here)
        ended = run_script(script)
        assert ended.code == 0, ended.output
        return result, Path(there.output.directory)

    return ran


def test_the_script_has_the_losses_of_the_tool(
    both: Callable[..., tuple[Any, Path]], tiny_model: Callable[[str], Path], chat_rows: Path
) -> None:
    result, output = both(tiny_model("llama"), chat_rows)
    assert losses_of(output) == result.losses
