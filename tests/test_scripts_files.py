"""Files around a training script: read by the programs that they are for, explained, and safe with any name."""

import ast
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_tools.config import RunConfig
from qlora_tools.errors import ConfigError, MachineError, UsageError
from qlora_tools.scripts.clusters import (
    DockerRequest,
    LaunchRequest,
    SkypilotRequest,
    SlurmRequest,
    accelerate_inputs,
    docker_inputs,
    fsdp_inputs,
    skypilot_inputs,
    slurm_inputs,
)
from qlora_tools.scripts.inputs import ScriptInputs
from qlora_tools.scripts.literals import Value
from qlora_tools.scripts.notebook import notebook_of, script_dependencies
from qlora_tools.scripts.render import made_script
from qlora_tools.scripts.rendering import render
from qlora_tools.scripts.topics_files import TOPICS

from .hostile_text import HOSTILE_NAMES

BASH = "/bin/bash"
SCRIPT = '''# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.10,<3",
#     "trl>=1.15,<2",
# ]
# ///
"""Train a thing.

More about it.
"""

import sys

# %% Configuration
NAME = "# %% not a title"
NOTE = """
# %% Not a title either
"""

# %% Work
# Why this is done.
#
#     an example
# And what it costs.

print(NAME, NOTE)  # said aloud


# %% End
sys.exit(0)
'''


def config(**parts: Any) -> RunConfig:
    """A config with `parts` in place of its own."""
    raw = {
        "model": {"name": "acme/base"},
        "data": {"path": "data/rows.jsonl"},
        "output": {"directory": "runs/one"},
        **parts,
    }
    return RunConfig.model_validate(raw)


def config_for_sharding(**parts: Any) -> RunConfig:
    return config(
        quantization={"compute_dtype": "bfloat16", "storage_dtype": "bfloat16"},
        training={"optimizer": "adamw_torch"},
        **parts,
    )


def rendered(kind: str, inputs: ScriptInputs, **values: Value) -> str:
    """The text of a file, with other values where they are given."""
    return render(kind, inputs.choices, {**inputs.values, **values}).text


SLURM_FULL = SlurmRequest(gpus=4, gpu_type="a100", partition="gpu-long", account="team_1", hours=48)
SKYPILOT_FULL = SkypilotRequest(gpu="a100-80gb", gpus=2, spot=True, bucket="s3://acme-runs/one")
EVERY_FILE: dict[str, tuple[str, ScriptInputs]] = {
    **{
        f"accelerate {dtype}": (
            "accelerate",
            accelerate_inputs(config(quantization={"compute_dtype": dtype}), LaunchRequest()),
        )
        for dtype in ("auto", "bfloat16", "float16", "float32")
    },
    "fsdp 4 bits": ("fsdp", fsdp_inputs(config_for_sharding(), LaunchRequest(gpus=8))),
    "slurm": ("slurm", slurm_inputs(config(), SlurmRequest())),
    "slurm, all": ("slurm", slurm_inputs(config(), SLURM_FULL)),
    "skypilot": ("skypilot", skypilot_inputs(config(), SkypilotRequest(gpu="L4"))),
    "skypilot, all": ("skypilot", skypilot_inputs(config(), SKYPILOT_FULL)),
    "skypilot, old": ("skypilot", skypilot_inputs(config(), SkypilotRequest(gpu="V100 16GB"))),
    "dockerfile": ("dockerfile", docker_inputs(SCRIPT, DockerRequest())),
    "dockerfile, old": ("dockerfile", docker_inputs(SCRIPT, DockerRequest(gpu="P100"))),
}


@pytest.mark.parametrize("name", EVERY_FILE)
def test_every_line_is_explained_by_a_field_or_a_topic(name: str) -> None:
    kind, inputs = EVERY_FILE[name]
    made = render(kind, inputs.choices, inputs.values)
    explained = {line for part in made.ranges for line in range(part.first, part.last + 1)}
    lines = enumerate(made.text.splitlines(), 1)
    assert [line for number, line in lines if line.strip() and number not in explained and line != "#!/bin/bash"] == []
    fields = {f"{part}.{field}" for part, model in config().model_dump().items() for field in model}
    assert {about for part in made.ranges for about in part.about} - fields - TOPICS.keys() == set()
    assert max(map(len, made.text.splitlines())) <= 126


def test_every_topic_is_of_a_line_and_says_why() -> None:
    used = {
        about
        for kind, inputs in EVERY_FILE.values()
        for part in render(kind, inputs.choices, inputs.values).ranges
        for about in part.about
    }
    assert TOPICS.keys() - used == set()
    assert all(part.endswith(".") for topic in TOPICS.values() for part in (topic.reason, topic.effect))


def launch_environment(text: str, folder: Path) -> dict[str, str]:
    """What accelerate's own launcher makes of a config file: the environment of the processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = folder / "launch.yaml"
    path.write_text(text, encoding="utf-8")
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "train.py"])
    arguments, defaults, _ = _validate_launch_command(arguments)
    assert defaults.compute_environment == "LOCAL_MACHINE"
    environment = prepare_multi_gpu_env(arguments)
    return {**environment, "processes": arguments.nproc_per_node, "port": str(arguments.main_process_port)}


@pytest.mark.parametrize(
    ("dtype", "mixed"), [("auto", "no"), ("bfloat16", "bf16"), ("float16", "fp16"), ("float32", "no")]
)
def test_accelerate_reads_the_file_for_several_gpus(dtype: str, mixed: str, tmp_path: Path) -> None:
    inputs = accelerate_inputs(config(quantization={"compute_dtype": dtype}), LaunchRequest(gpus=3))
    environment = launch_environment(rendered("accelerate", inputs), tmp_path)
    assert environment["ACCELERATE_MIXED_PRECISION"] == mixed
    assert environment["processes"] == "3"
    assert environment["port"] != "29500"
    assert "ACCELERATE_USE_FSDP" not in environment


def test_accelerate_reads_the_file_for_shards_as_version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import FullyShardedDataParallelPlugin

    inputs = fsdp_inputs(config_for_sharding(), LaunchRequest(gpus=2))
    environment = launch_environment(rendered("fsdp", inputs), tmp_path)
    for name, value in environment.items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.activation_checkpointing) == (2, True, False)
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert plugin.transformer_cls_names_to_wrap is None  # the model's own `_no_split_modules`
    assert plugin.cpu_ram_efficient_loading is False


def test_shards_refuse_all_that_does_not_suit_them_at_once() -> None:
    with pytest.raises(ConfigError) as found:
        fsdp_inputs(config(), LaunchRequest(gpus=2))
    fields = {problem.field for problem in found.value.problems}
    assert fields == {"quantization.compute_dtype", "quantization.storage_dtype", "training.optimizer"}
    for kind in ("int8", "none"):
        with pytest.raises(ConfigError, match=f"is {kind}; the training script shares out 4-bit bases only"):
            fsdp_inputs(config(quantization={"kind": kind}), LaunchRequest(gpus=2))


def test_one_gpu_needs_no_launcher() -> None:
    for inputs in (accelerate_inputs, fsdp_inputs):
        with pytest.raises(UsageError, match="One GPU needs no launcher"):
            inputs(config_for_sharding(), LaunchRequest(gpus=1))


def test_gpus_that_cannot_share_a_step_are_told_before_the_script_refuses_them() -> None:
    assert accelerate_inputs(config(), LaunchRequest(gpus=4)).notes == ()
    assert "cannot share the" in accelerate_inputs(config(), LaunchRequest(gpus=3)).notes[0]


def test_notes_name_the_files_that_belong_beside_a_file() -> None:
    assert "render that as kind accelerate, with gpus 4" in slurm_inputs(config(), SLURM_FULL).notes[0]
    sharded = SkypilotRequest(gpu="L4", gpus=2, launch_config="fsdp.yaml")
    assert "render that as kind fsdp, with gpus 2" in skypilot_inputs(config(), sharded).notes[0]
    assert slurm_inputs(config(), SlurmRequest()).notes == ()
    assert "as /job/train.rows.jsonl" in docker_inputs(SCRIPT, DockerRequest(rows_files=("train.rows.jsonl",))).notes[0]


@pytest.mark.parametrize("wrong", ["two words", "-rf", "", "a\nb", "x;y", "$(id)", "x" * 64, *HOSTILE_NAMES])
def test_a_job_has_a_plain_name(wrong: str) -> None:
    for part in ("name", "gpu_type", "partition", "account"):
        with pytest.raises(UsageError):
            slurm_inputs(config(), SlurmRequest(**{part: wrong}))
    with pytest.raises(UsageError):
        skypilot_inputs(config(), SkypilotRequest(gpu="L4", name=wrong))
    with pytest.raises(UsageError):
        docker_inputs(SCRIPT, DockerRequest(script=wrong))


def test_numbers_out_of_range_are_refused() -> None:
    for request in (
        SlurmRequest(gpus=9),
        SlurmRequest(hours=0),
        SlurmRequest(grace_seconds=1),
        SlurmRequest(memory_gib=0),
    ):
        with pytest.raises(UsageError, match="is allowed"):
            slurm_inputs(config(), request)


def test_a_machine_in_a_cloud_is_chosen_by_a_supported_gpu() -> None:
    with pytest.raises(UsageError, match="none is named"):
        skypilot_inputs(config(), SkypilotRequest())
    with pytest.raises(UsageError, match="No GPU called"):
        skypilot_inputs(config(), SkypilotRequest(gpu="Q9000"))
    with pytest.raises(MachineError, match="not supported"):
        skypilot_inputs(config(), SkypilotRequest(gpu="MI300X"))


def test_a_spot_machine_needs_a_bucket() -> None:
    with pytest.raises(UsageError, match="taken away with its disk"):
        skypilot_inputs(config(), SkypilotRequest(gpu="L4", spot=True))
    with pytest.raises(UsageError, match="s3://"):
        skypilot_inputs(config(), SkypilotRequest(gpu="L4", bucket="/srv/me"))


# Names of SkyPilot's catalogue v7 (github.com/skypilot-org/skypilot-catalog), and the card that each means.
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        *(("a100", "A100"), ("A100-SXM4-80GB", "A100-80GB"), ("H100 80GB HBM3", "H100"), ("h200", "H200")),
        *(("A10G", "A10G"), ("L40S", "L40S"), ("T4", "T4"), ("V100-SXM2-32GB", "V100-32GB"), ("P100", "P100")),
        *(("RTX 4090", "RTX4090"), ("RTX A6000", "RTXA6000"), ("RTX 6000 Ada", "RTX6000-Ada"), ("B200", "B200")),
    ],
)
def test_gpus_have_the_names_that_skypilot_knows(ours: str, theirs: str) -> None:
    inputs = skypilot_inputs(config(), SkypilotRequest(gpu=ours))
    assert inputs.values["accelerators"] == f"{theirs}:1"


# Where the shell looks for commands: only what a test puts there, and the tools of the system.
SYSTEM_PATH = "/usr/bin:/bin"

# Stands for train.py: saves when it is told to stop, as --resume expects it.
TRAINING = """
import pathlib, signal, sys
state = pathlib.Path("runs/one/checkpoints/checkpoint-7/trainer_state.json")
def save(*ignored):
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
print("flags", sys.argv[1:], flush=True)
if "--resume" not in sys.argv:
    pathlib.Path("ready").touch()
    signal.pause()
"""


def slurm_node(folder: Path) -> dict[str, str]:
    """An environment in which Slurm's commands do to a process of this machine what they do to a step."""
    commands = {
        "srun": 'echo $$ > step; exec "$@"',
        "scancel": 'echo "$@" >> said; kill -TERM "$(cat step)"',
        "scontrol": 'echo "$@" >> said',
    }
    for name, body in commands.items():
        command = folder / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        command.chmod(0o755)
    (folder / "train.py").write_text(TRAINING, encoding="utf-8")
    return {"PATH": f"{folder / 'bin'}:{SYSTEM_PATH}", "PYTHON": sys.executable, "SLURM_JOB_ID": "81"}


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} is not there"
        os.sched_yield()


def test_a_job_that_runs_out_of_time_saves_goes_back_into_the_queue_and_resumes(tmp_path: Path) -> None:
    environment = slurm_node(tmp_path)
    (tmp_path / "job").write_text(rendered("slurm", slurm_inputs(config(), SlurmRequest())), encoding="utf-8")
    start = {"cwd": tmp_path, "env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([BASH, "job"], **start) as first:  # type: ignore[call-overload]
        wait_for(tmp_path / "ready", first)
        first.send_signal(signal.SIGUSR1)
        output, errors = first.communicate(timeout=30)
    assert (first.returncode, output, errors) == (1, "flags []\n", "")
    assert (tmp_path / "said").read_text(encoding="utf-8") == "--signal=TERM 81\nrequeue 81\n"
    second = subprocess.run([BASH, "job"], timeout=30, check=True, **start)  # type: ignore[call-overload]
    assert (second.stdout, second.stderr) == ("flags ['--resume']\n", "")
    assert (tmp_path / "said").read_text(encoding="utf-8").count("requeue") == 1


@pytest.mark.parametrize(
    "training",
    [
        pytest.param("import sys; sys.exit(7)", id="failed"),
        pytest.param(
            "import pathlib, signal, sys\nsignal.signal(signal.SIGTERM, lambda *ignored: sys.exit(7))\n"
            "pathlib.Path('ready').touch()\nsignal.pause()",
            id="saved nothing in its time",
        ),
    ],
)
def test_a_job_that_came_no_further_is_not_queued_again(training: str, tmp_path: Path) -> None:
    environment = slurm_node(tmp_path)
    (tmp_path / "train.py").write_text(training, encoding="utf-8")
    (tmp_path / "job").write_text(rendered("slurm", slurm_inputs(config(), SlurmRequest())), encoding="utf-8")
    with subprocess.Popen([BASH, "job"], cwd=tmp_path, env=environment, text=True) as job:
        if "ready" in training:
            wait_for(tmp_path / "ready", job)
            job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=30) == 7
    assert not (tmp_path / "said").exists() or "requeue" not in (tmp_path / "said").read_text(encoding="utf-8")


def test_a_cancelled_job_waits_for_the_checkpoint_and_stays_out_of_the_queue(tmp_path: Path) -> None:
    environment = slurm_node(tmp_path)
    (tmp_path / "job").write_text(rendered("slurm", slurm_inputs(config(), SlurmRequest())), encoding="utf-8")
    with subprocess.Popen([BASH, "job"], cwd=tmp_path, env=environment, text=True) as job:
        wait_for(tmp_path / "ready", job)
        job.terminate()  # Slurm signals shell and step
        os.kill(int((tmp_path / "step").read_text(encoding="utf-8")), signal.SIGTERM)
        assert job.wait(timeout=30) == 1
    assert (tmp_path / "runs/one/checkpoints/checkpoint-7/trainer_state.json").exists()
    assert not (tmp_path / "said").exists()


def test_a_job_without_a_python_says_so(tmp_path: Path) -> None:
    environment = {**slurm_node(tmp_path), "PYTHON": "no-such-python"}
    (tmp_path / "job").write_text(rendered("slurm", slurm_inputs(config(), SlurmRequest())), encoding="utf-8")
    ended = subprocess.run([BASH, "job"], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr[:28]) == (2, "There is no no-such-python: ")


def directives(text: str) -> dict[str, str]:
    """What sbatch reads: its options by name."""
    pairs = (line.removeprefix("#SBATCH --").partition("=") for line in text.splitlines() if line.startswith("#SBATCH"))
    return {name: value for name, _, value in pairs}


def test_a_job_asks_for_one_node_with_all_that_it_needs() -> None:
    text = rendered("slurm", slurm_inputs(config(), SLURM_FULL))
    assert directives(text) == {
        "job-name": "qlora",
        "partition": "gpu-long",
        "account": "team_1",
        "nodes": "1",
        "ntasks-per-node": "1",
        "gpus-per-node": "a100:4",
        "cpus-per-task": "32",
        "mem": "64G",
        "time": "48:00:00",
        "output": "%x-%j.log",
        "open-mode": "append",
        "requeue": "",
        "signal": "B:USR1@300",
    }
    assert "--num_processes" in text
    assert text.startswith("#!/bin/bash\n")


def test_all_shell_is_shell() -> None:
    for kind, inputs in EVERY_FILE.values():
        text = rendered(kind, inputs)
        parts: Mapping[str, str] = (
            yaml.safe_load(text) if kind == "skypilot" else {"job": text} if kind == "slurm" else {}
        )
        for name in {"job", "setup", "run"} & parts.keys():
            subprocess.run([BASH, "-n"], input=parts[name], text=True, check=True)


def word_values(text: str) -> dict[str, str]:
    """What a shell assigns in the lines of the file that set a value, said by the shell itself."""
    names = ("SCRIPT", "OUTPUT", "LAUNCH_CONFIG")
    lines = [line for line in text.splitlines() if line.startswith(tuple(f"{name}=" for name in names))]
    said = "\n".join([*lines, *(f'printf "%s\\0" "${name}"' for name in names)])
    done = subprocess.run([BASH, "-c", said], capture_output=True, check=True, cwd="/", env={"PATH": SYSTEM_PATH})
    return dict(zip(names, done.stdout.decode().split("\0"), strict=False))


def printable(values: tuple[str, ...]) -> Iterator[str]:
    yield from (value for value in values if value.isprintable() and len(value) < 1000)


@pytest.mark.parametrize("name", [*printable(HOSTILE_NAMES), "-e", "~/x", "a b", "#", "a'b\"c\\", "*"])
def test_the_shell_takes_any_path_as_that_path(name: str) -> None:
    inputs = slurm_inputs(config(), SLURM_FULL)
    text = rendered("slurm", inputs, script=name, output=name, launch_config=name)
    subprocess.run([BASH, "-n"], input=text, text=True, check=True)
    assert word_values(text) == {"SCRIPT": name, "OUTPUT": name, "LAUNCH_CONFIG": name}


def shell_words(text: str) -> list[str]:
    return shlex.split(text, comments=True)


@settings(max_examples=60, deadline=None)
@given(name=st.text(min_size=1, max_size=40))
def test_a_value_changes_one_word_of_a_shell_script_and_no_other(name: str) -> None:
    inputs = slurm_inputs(config(), SlurmRequest())
    neutral = shell_words(rendered("slurm", inputs, output="NEUTRAL"))
    try:
        words = shell_words(rendered("slurm", inputs, output=name))
    except UsageError:
        assert not name.isprintable()
        return
    assert words == [word.replace("NEUTRAL", name) for word in neutral]


@settings(max_examples=60, deadline=None)
@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_a_value_changes_one_value_of_a_yaml_file_and_no_other(name: str) -> None:
    inputs = skypilot_inputs(config(), SKYPILOT_FULL)
    files: dict[str, Value] = {"~/run/x": name, name: "here"}
    changed = rendered("skypilot", inputs, output=name, bucket=name, output_target="~/run/out", file_mounts=files)
    expected = yaml.safe_load(rendered("skypilot", inputs))
    expected["envs"]["OUTPUT"] = name
    expected["file_mounts"] = {**files, "~/run/out": {"source": name, "mode": "MOUNT_CACHED"}}
    assert yaml.safe_load(changed) == expected


def test_skypilot_sends_the_script_the_rows_and_a_local_base(tmp_path: Path) -> None:
    evaluated = {"path": "data/rows.jsonl", "evaluation_path": "/data/held.jsonl"}
    inputs = skypilot_inputs(config(data=evaluated, model={"name": str(tmp_path)}), SkypilotRequest(gpu="L4"))
    assert yaml.safe_load(rendered("skypilot", inputs))["file_mounts"] == {
        "~/run/train.py": "train.py",
        "~/run/data/rows.jsonl": "data/rows.jsonl",
        "/data/held.jsonl": "/data/held.jsonl",
        str(tmp_path): str(tmp_path),
    }
    in_tokens = SkypilotRequest(gpu="L4", gpus=2, script="runs/mine.py", rows_files=("mine.rows.jsonl",))
    sent = skypilot_inputs(config(), in_tokens).values
    assert sent["script"] == "mine.py"
    assert sent["file_mounts"] == {
        "~/run/mine.py": "runs/mine.py",
        "~/run/mine.rows.jsonl": "runs/mine.rows.jsonl",
        "~/run/accelerate.yaml": "accelerate.yaml",
    }
    on_the_hub = config(data={"path": "acme/rows", "source": "hub"})
    assert skypilot_inputs(on_the_hub, SkypilotRequest(gpu="L4")).values["file_mounts"] == {
        "~/run/train.py": "train.py"
    }


def test_a_path_below_home_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/ada")
    at_home = config(output={"directory": "~/runs/one"}, data={"path": "~/rows.jsonl"})
    assert "\nOUTPUT=/srv/ada/runs/one  #" in rendered("slurm", slurm_inputs(at_home, SlurmRequest()))
    values = skypilot_inputs(at_home, SkypilotRequest(gpu="L4", bucket="s3://acme-runs/one")).values
    assert values["output"] == values["output_target"] == "/srv/ada/runs/one"
    assert values["file_mounts"] == {"~/run/train.py": "train.py", "/srv/ada/rows.jsonl": "/srv/ada/rows.jsonl"}


def test_a_container_is_not_root_and_holds_neither_data_nor_secrets() -> None:
    text = rendered("dockerfile", docker_inputs(SCRIPT, DockerRequest(script="mine.py")))
    steps = [line.partition(" ")[::2] for line in text.replace("\\\n", "").splitlines() if line and line[0] not in "# "]
    assert [name for name, _ in steps] == "FROM RUN ARG RUN USER ENV WORKDIR ENV VOLUME COPY ENTRYPOINT".split()  # noqa: SIM905
    said = dict(steps)
    assert said["FROM"] == "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"
    assert said["COPY"] == "mine.py /job/train.py"
    assert said["USER"] == "${UID}"
    assert json.loads(said["ENTRYPOINT"]) == ["python", "/job/train.py"]
    installed = shlex.split(steps[1][1])
    assert installed[installed.index("--break-system-packages") + 1 :] == script_dependencies(SCRIPT)


def test_old_gpus_get_the_builds_that_have_code_for_them() -> None:
    old = docker_inputs(SCRIPT, DockerRequest(gpu="V100 32GB"))
    assert "FROM pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime\n" in rendered("dockerfile", old)
    assert "--torch-backend cu126" in rendered("skypilot", EVERY_FILE["skypilot, old"][1])
    assert "--torch-backend auto" in rendered("skypilot", EVERY_FILE["skypilot"][1])


def code_cells(notebook: str) -> list[str]:
    cells = json.loads(notebook)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_a_notebook_is_the_script_in_cells_with_its_words_as_text() -> None:
    notebook = notebook_of(SCRIPT)
    nbformat.validate(nbformat.reads(notebook, as_version=nbformat.NO_CONVERT))
    document = json.loads(notebook)
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    kinds = [(cell["id"], cell["cell_type"], "".join(cell["source"])) for cell in document["cells"]]
    assert kinds == [
        ("cell-00", "markdown", "# Train a thing\n\nMore about it."),
        ("cell-01", "code", '%pip install --quiet "torch>=2.10,<3" "trl>=1.15,<2"'),
        ("cell-02", "code", "import sys"),
        ("cell-03", "markdown", "## Configuration"),
        ("cell-04", "code", 'NAME = "# %% not a title"\nNOTE = """\n# %% Not a title either\n"""'),
        ("cell-05", "markdown", "## Work\n\nWhy this is done.\n\n    an example\nAnd what it costs."),
        ("cell-06", "code", "print(NAME, NOTE)  # said aloud"),
        ("cell-07", "markdown", "## End"),
        ("cell-08", "code", "sys.exit(0)"),
    ]


def plain_code(text: str) -> str:
    """The syntax tree of a script without its docstring."""
    tree = ast.parse(text)
    if isinstance(tree.body[0], ast.Expr):
        del tree.body[0]
    return ast.dump(tree)


def test_the_code_of_a_notebook_is_the_code_of_the_script() -> None:
    first, *rest = code_cells(notebook_of(SCRIPT))
    assert first.startswith("%pip install")
    assert plain_code("\n".join(rest)) == plain_code(SCRIPT)


RunnableConfig = Callable[..., dict[str, Any]]


def run_python(program: str, folder: Path, *arguments: str, **environment: str) -> str:
    """What a fresh Python says that runs `program`; it sees nothing of this test's environment but what it needs."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *arguments, "program.py"],
        cwd=folder,
        env={"PATH": SYSTEM_PATH, "HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


@pytest.mark.slow
def test_the_cells_of_a_real_notebook_run(
    tiny_model: Callable[[str], Path], chat_rows: Path, config_for: RunnableConfig, tmp_path: Path
) -> None:
    raw = config_for(tiny_model("llama"), chat_rows)
    made = made_script(RunConfig.model_validate(raw), kind="notebook", stem="train")
    nbformat.validate(nbformat.reads(made.text, as_version=nbformat.NO_CONVERT))
    install, *cells = code_cells(made.text)
    assert install.startswith("%pip install")
    program = "\n".join(cells)
    assert program.count("DRY_RUN = False") == 1
    assert "Dry run: 3 steps" in run_python(program.replace("DRY_RUN = False", "DRY_RUN = True"), tmp_path)


# Accelerate shards on accelerators only. Here its processes hold CPUs for GPUs; what it reads and does is its own.
SHARDED_ON_CPU = """
import runpy
from accelerate.state import DistributedType, PartialState
begin = PartialState.__init__
def begin_as_on_gpus(self, *arguments, **keywords):
    begin(self, *arguments, **keywords)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU
PartialState.__init__ = begin_as_on_gpus
runpy.run_path("train.py", run_name="__main__")
"""


def losses_of(folder: Path) -> list[float]:
    history = json.loads((folder / "checkpoints/trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
def test_two_processes_with_shares_of_a_4_bit_base_lose_as_two_with_all_of_it(
    tiny_model: Callable[[str], Path], chat_rows: Path, config_for: RunnableConfig, tmp_path: Path
) -> None:
    parts = {
        "quantization": {"compute_dtype": "bfloat16", "storage_dtype": "bfloat16"},
        "training": {"optimizer": "adamw_torch"},
    }
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    losses = []
    for name in ("whole", "shared out"):
        folder = tmp_path / name
        folder.mkdir()
        raw = config_for(tiny_model("llama"), chat_rows, output={"directory": "out"}, **parts)
        run = RunConfig.model_validate(raw)
        (folder / "train.py").write_text(made_script(run, kind="train", stem="train").text, encoding="utf-8")
        text = rendered("fsdp", fsdp_inputs(run, LaunchRequest(gpus=2)))
        launched = launch_environment(text, folder) if name == "shared out" else {}
        wanted = {key: value for key, value in launched.items() if key.startswith(("FSDP_", "ACCELERATE_"))}
        program = SHARDED_ON_CPU if wanted else 'import runpy\nrunpy.run_path("train.py", run_name="__main__")'
        run_python(program, folder, *launcher, ACCELERATE_USE_CPU="true", **wanted)
        assert (folder / "out/adapter/adapter_model.safetensors").exists()
        losses.append(losses_of(folder / "out"))
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=0.005)
    assert (tmp_path / "shared out/out/checkpoints/checkpoint-3/pytorch_model_fsdp_0").is_dir()
