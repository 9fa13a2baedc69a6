"""How a model would be served: the server, its arguments, and every reason why that would fail."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..config.schema import QuantizationConfig
from ..errors import UsageError
from ..exporting.adapter_package import stops_beyond_base
from ..exporting.base_name import exported_name
from ..exporting.source import AdapterSource, Source, find_source, hub_name
from ..exporting.vllm import notes_of_base, vllm_arguments
from ..exporting.vllm_checks import vllm_checks
from ..models.gpu_here import gpu_here
from ..paths import as_path
from ..results import ServingCheck, ServingPlan
from .checks import gpu_check, is_loopback, memory_check, port_check, whole_modules_check
from .installed import (
    has_transformers_server,
    require_some_server,
    require_transformers_server,
    require_vllm,
    transformers_program,
    version_of,
    vllm_program,
)
from .linked_model import linked_directory

ServerName = Literal["auto", "transformers", "vllm"]
_UNQUANTIZED = QuantizationConfig(kind="none")
# Options of the servers that are ours to give, or that would run code of strangers; vLLM's --config may hold any of them.
_OURS = ("--host", "--port", "--trust-remote-code", "--config")


@dataclass(frozen=True)
class _Served:
    """A server's part of the plan."""

    arguments: list[str]
    model: str
    base: str
    checks: list[ServingCheck]
    notes: list[str]


def plan_serving(
    source: str | Path,
    *,
    server: ServerName = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    extra: Sequence[str] = (),
) -> ServingPlan:
    """The command that serves `source` (a run's output directory, an adapter, a merged model) and what was checked.

    `auto` is vLLM where it is installed, sees a GPU and takes the model, else `transformers serve`. `extra` goes to the
    server as it is. Writes nothing and starts nothing. Raises `ModelError` (source), `UsageError` (arguments),
    `MissingLibraryError` where no server is installed.
    """
    if server not in get_args(ServerName):
        raise UsageError(f"{server!a} is no server.", next_step=f"Choose among {', '.join(get_args(ServerName))}.")
    if not 1 <= port <= 65_535:
        raise UsageError(f"The port {port} is not in 1 to 65535.", next_step="Choose another, such as 8000.")
    _require_harmless(extra)
    path = as_path(str(source))
    found = find_source(path)
    chosen = server if server != "auto" else _chosen(found)
    name = exported_name(None, path.parent.name if path.name == "adapter" else path.name)
    served = _with_vllm(found, name) if chosen == "vllm" else _with_transformers(found)
    return _plan(chosen, served, host, port, extra)


def _plan(server: str, served: _Served, host: str, port: int, extra: Sequence[str]) -> ServingPlan:
    shown_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    url = f"http://{f'[{shown_host}]' if ':' in shown_host else shown_host}:{port}/v1"
    notes = list(served.notes)
    if not is_loopback(host):
        notes.append(f"Whoever reaches {host} can use this server: it asks for no password.")
    return ServingPlan(
        server=server,
        version=version_of(server),
        command=[*served.arguments, "--host", host, "--port", str(port), *extra],
        model=served.model,
        url=url,
        base=served.base,
        checks=[*served.checks, port_check(host, port)],
        notes=notes,
        curl=_curl(url, served.model),
        python=_python(url, served.model),
    )


def _chosen(found: Source) -> str:
    """vLLM where it would work, since it serves many at once; else the server that is always of the same version."""
    require_some_server()
    fits = not isinstance(found, AdapterSource) or all(check.passed for check in vllm_checks(found))
    if vllm_program() is not None and (not has_transformers_server() or (fits and gpu_here() is not None)):
        return "vllm"
    return "transformers"


def _with_transformers(found: Source) -> _Served:
    require_transformers_server()
    serve = [*transformers_program(), "serve"]
    if not isinstance(found, AdapterSource):
        model = str(found.directory)
        checks = [_name_check(model), *memory_check(found.directory, _UNQUANTIZED)]
        return _Served([*serve, model], model, "merged", checks, [])
    model = str(linked_directory(found.directory))
    quantization, notes = _served_quantization(found.record.quantization)
    option = {"nf4": ["--quantization", "bnb-4bit"], "int8": ["--quantization", "bnb-8bit"]}.get(quantization.kind, [])
    memory = memory_check(found.base, quantization) if found.base is not None else []
    checks = [whole_modules_check(found), _base_check(found), *memory]
    notes.append("Base and adapter are linked into that directory when the server is started.")
    kind = "16-bit" if quantization.kind == "none" else quantization.kind
    return _Served([*serve, model, *option], model, kind, checks, notes)


def _served_quantization(trained: QuantizationConfig) -> tuple[QuantizationConfig, list[str]]:
    """`transformers serve` knows NF4 with double quantisation, and 8 bits; what comes nearest, with the difference told."""
    if trained.kind == "fp4":
        return _UNQUANTIZED, ["It was trained on a base in fp4, which this server cannot make: the base is in 16 bits."]
    if trained.kind == "nf4" and not trained.double_quantization:
        return trained, ["It was trained without double quantisation; this server always quantises the constants too."]
    return trained, []


def _with_vllm(found: Source, name: str) -> _Served:
    program = require_vllm()
    if not isinstance(found, AdapterSource):
        arguments = [program, "serve", str(found.directory), "--served-model-name", name]
        return _Served(arguments, name, "merged", [gpu_check(), *memory_check(found.directory, _UNQUANTIZED)], [])
    public = hub_name(found.record)
    base = str(found.base) if found.base is not None else public or found.record.base_name
    revision = None if found.base is not None else found.record.base_revision
    arguments = vllm_arguments(found, found.directory, base, revision, name)
    if found.base is not None and stops_beyond_base(found):
        arguments += ["--generation-config", str(linked_directory(found.directory))]
    checks = [*vllm_checks(found), gpu_check()]
    if found.base is not None:
        checks += memory_check(found.base, _UNQUANTIZED)
    return _Served([program, *arguments[1:]], name, "16-bit", checks, notes_of_base(found))


def _base_check(found: AdapterSource) -> ServingCheck:
    if found.base is not None:
        return ServingCheck(name="base", passed=True, message="The base is on this machine.")
    message = f"The base {found.record.base_name} is not on this machine."
    step = f"Fetch it once: `hf download {hub_name(found.record)}`, or `qlora generate ADAPTER -p hello`."
    return ServingCheck(name="base", passed=False, message=message, next_step=step)


def _name_check(model: str) -> ServingCheck:
    """`transformers serve` reads `@` in a name as a revision, and `:` as a file."""
    good = "@" not in model and ":" not in model
    message = (
        "The path has no @ and no colon."
        if good
        else f"`transformers serve` takes a path apart at @ and colons: {model}"
    )
    return ServingCheck(name="path", passed=good, message=message, next_step=None if good else "Rename the directory.")


def _require_harmless(extra: Sequence[str]) -> None:
    refused = next((word for word in extra if _is_ours(word.partition("=")[0]) or "\0" in word), None)
    if refused is not None:
        raise UsageError(
            f"{refused[:60]!a} is not handed on to a server.",
            next_step="Use --host and --port of `qlora serve`; code that comes with a model is never run.",
        )


def _is_ours(option: str) -> bool:
    """Servers take an option by its first letters too, and with underscores."""
    plain = option.replace("_", "-")
    return len(plain) > len("--x") and any(ours.startswith(plain) for ours in _OURS)


def _curl(url: str, model: str) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100})
    return f"curl {shlex.quote(f'{url}/chat/completions')} -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def _python(url: str, model: str) -> str:
    return (
        f"from openai import OpenAI\n\nclient = OpenAI(base_url={url!r}, api_key='none')\n"
        f"answer = client.chat.completions.create(model={model!r}, messages=[{{'role': 'user', 'content': 'Hello'}}])\n"
        "print(answer.choices[0].message.content)\n"
    )
