"""The JSON Schema of a run config is a promise to agents: a change of it shows in review."""

import json
import os
from pathlib import Path

from qlora_tools.config import config_schema

SNAPSHOT = Path(__file__).parent / "snapshots" / "run_config.schema.json"


def test_the_schema_of_a_run_config_is_the_committed_one() -> None:
    text = json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("QLORA_UPDATE_SNAPSHOTS") == "1":
        SNAPSHOT.write_text(text, encoding="utf-8")
    assert json.loads(SNAPSHOT.read_text(encoding="utf-8")) == config_schema(), (
        "The schema of RunConfig changed. If that is meant, run and commit: "
        "QLORA_UPDATE_SNAPSHOTS=1 python -m pytest tests/test_config_schema_snapshot.py"
    )


def test_the_schema_requires_the_three_fields_without_a_default_and_allows_no_others() -> None:
    schema = config_schema()
    assert schema["required"] == ["model", "data", "output"]
    assert [schema["$defs"][name]["required"] for name in ("ModelConfig", "DataConfig", "OutputConfig")] == [
        ["name"],
        ["path"],
        ["directory"],
    ]
    assert schema["additionalProperties"] is False
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())
