"""An adapter package with the command that serves it: arguments as a list, never a line for a shell to take apart."""

import json
import shlex
from pathlib import Path

from ..errors import ModelError
from .base_name import PublishedBase
from .source import TEMPLATE_FILE, AdapterSource
from .vllm_checks import failed, largest_rank_option, vllm_checks

COMMAND_FILE = "vllm_command.json"


def require_servable(source: AdapterSource) -> None:
    """Raise `ModelError` with everything that vLLM would refuse."""
    reasons = list(failed(vllm_checks(source)))
    if reasons:
        said = " ".join(check.message for check in reasons)
        raise ModelError(
            f"vLLM cannot serve this adapter beside its base. {said}", next_step=reasons[0].next_step or "Merge it."
        )


def vllm_arguments(source: AdapterSource, directory: Path, base: str, revision: str | None, name: str) -> list[str]:
    """`vllm serve` with the adapter in `directory` as the model `name`, asked with the template that was trained."""
    arguments = ["vllm", "serve", base, *(["--revision", revision] if revision else [])]
    if (directory / "tokenizer_config.json").is_file():
        arguments += ["--tokenizer", str(directory)]
    if (directory / TEMPLATE_FILE).is_file():
        arguments += ["--chat-template", str(directory / TEMPLATE_FILE)]
    if (directory / "generation_config.json").is_file():
        arguments += ["--generation-config", str(directory)]
    rank = str(largest_rank_option(source.facts))
    module = json.dumps({"name": name, "path": str(directory)})
    return [*arguments, "--enable-lora", "--max-lora-rank", rank, "--lora-modules", module]


def write_vllm_command(source: AdapterSource, target: Path, base: PublishedBase, name: str) -> list[str]:
    """Write the command, to be run inside the package; returns what to know."""
    absolute = vllm_arguments(source, target, base.name, base.revision, name)
    arguments = [argument.replace(str(target) + "/", "./").replace(str(target), ".") for argument in absolute]
    told = {"run_in": "this directory", "arguments": arguments, "shown": shlex.join(arguments), "model": name}
    (target / COMMAND_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return notes_of_base(source)


def shown_command(directory: Path) -> str:
    """The command of a package as a person types it."""
    return str(json.loads((directory / COMMAND_FILE).read_text(encoding="utf-8"))["shown"])


def notes_of_base(source: AdapterSource) -> list[str]:
    """What changes when the base is served in 16 bits."""
    kind = source.record.quantization.kind
    if kind == "none":
        return []
    return [
        f"The adapter was trained on a base in {kind}; vLLM serves the base in 16 bits. The answers are those of "
        "`qlora merge --base original`: evaluate that merge before you rely on them."
    ]
