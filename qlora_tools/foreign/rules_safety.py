"""Foreign code, pickles, and secrets."""

import ast
import re
from collections.abc import Iterator

from ..hiding import hidden_secrets
from .calls import Call
from .constants import Value
from .lint_subject import Found, Subject, at, is_true, known, written

_PICKLES = (
    "pickle.load",
    "pickle.loads",
    "dill.load",
    "dill.loads",
    "joblib.load",
    "cloudpickle.load",
    "cloudpickle.loads",
)
_SHELLS = ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput")
_PROCESSES = (
    "subprocess.run",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
    "subprocess.Popen",
)
_KEY_ARGUMENTS = ("token", "api_key", "key", "hub_token", "use_auth_token", "hf_token")
_LEAST_KEY_CHARACTERS = 20
_PLACEHOLDER = re.compile(r"x{5}|\*{3}|your|<|\.\.\.|0{6}|1234567|token_here|replace", re.IGNORECASE)


def code_of_models(subject: Subject) -> Iterator[Found]:
    """`trust_remote_code=True`."""
    for call in subject.source.calls:
        if is_true(call, "trust_remote_code"):
            yield Found(
                *at(call, "trust_remote_code"),
                "trust_remote_code=True runs Python that comes with the model or dataset",
                "Whoever may write to that repository may run anything here; models that transformers knows need it not, and "
                "code written for older versions breaks with new ones.",
                "leave it out; where a model needs it, read the code and pin revision= to that commit",
                written(call, "trust_remote_code"),
                "trust_remote_code=False",
            )


def pickles(subject: Subject) -> Iterator[Found]:
    """Reading what can run code when it is read."""
    for call in subject.source.calls_of("torch.load"):
        if call.name == "torch.load" and known(call, "weights_only") is False:
            yield Found(
                *at(call, "weights_only"),
                "torch.load with weights_only=False unpickles",
                "A pickle runs code when it is read. torch 2.6 and later refuse by default.",
                "use safetensors.torch.load_file, or leave weights_only at True",
                written(call, "weights_only"),
                "weights_only=True",
            )
    for call in subject.source.calls_of(*_PICKLES):
        if call.name in _PICKLES:
            yield Found(
                call.line,
                call.end_line,
                f"{call.name} unpickles",
                "A pickle runs code when it is read; the same goes for whatever somebody puts in that file's place.",
                "keep data as JSON or Parquet and weights as safetensors",
            )


def text_that_becomes_code(subject: Subject) -> Iterator[Found]:
    """`eval`, `exec`, and shells that are given made-up text."""
    for call in subject.source.calls:
        what = _made_up_code(subject, call)
        if what:
            yield Found(
                call.line,
                call.end_line,
                what,
                "A value that came from outside (a name of a model, a row, an argument) is then run.",
                "use json.loads or ast.literal_eval for data, and subprocess.run([...]) with a list for commands",
            )


def _made_up_code(subject: Subject, call: Call) -> str | None:
    first = call.positional[0] if call.positional else None
    if first is None or first.known:
        return None
    if call.name in ("eval", "exec"):
        return f"{call.name} of a value"
    if call.name in _SHELLS or (call.name in _PROCESSES and is_true(call, "shell")):
        return f"{call.name} gives a made-up text to a shell"
    return None


def secrets_in_source(subject: Subject) -> Iterator[Found]:
    """Keys that stand in the file. Their text is never shown."""
    lines = {number for number, line in enumerate(subject.source.text.split("\n"), 1) if _holds_secret(line)}
    lines |= {value.node.lineno for value in _key_values(subject) if value.node is not None}
    for line in sorted(lines):
        yield Found(
            line,
            line,
            "a secret stands in the source",
            "Whoever reads the file or its history can use it; notebooks are shared with all their cells.",
            "revoke it, and take it from the environment (HF_TOKEN, WANDB_API_KEY), which the libraries read by themselves",
        )


def _holds_secret(line: str) -> bool:
    return hidden_secrets(line) != line and not _PLACEHOLDER.search(line)


def _key_values(subject: Subject) -> Iterator[Value]:
    for call in subject.source.calls:
        named = [value for name, value in call.arguments.items() if name in _KEY_ARGUMENTS]
        if call.last_name == "login" and call.positional:
            named.append(call.positional[0])
        yield from (value for value in named if _is_key(value))


def _is_key(value: Value) -> bool:
    text = value.value
    if not value.known or not isinstance(text, str) or not isinstance(value.node, ast.Constant):
        return False
    long = len(text) >= _LEAST_KEY_CHARACTERS and not re.search(r"[\s/:]", text)
    return long and bool(re.search(r"\d", text)) and not _PLACEHOLDER.search(text)


def pickled_weights(subject: Subject) -> Iterator[Found]:
    """Saving weights as a pickle."""
    for call in subject.source.calls:
        if known(call, "safe_serialization") is False:
            yield Found(
                *at(call, "safe_serialization"),
                "weights are saved as a pickle",
                "A pickle runs code when it is read, and loading it needs a torch that is willing to.",
                "save as safetensors, the default",
                written(call, "safe_serialization"),
                "safe_serialization=True",
            )
        elif call.name == "torch.save" and call.positional and "state_dict()" in call.positional[0].text:
            yield Found(
                call.line,
                call.end_line,
                "the whole state of a model is saved as a pickle",
                "For a PEFT model that is the quantised base as well, many times the adapter, in a form that nothing loads.",
                "use model.save_pretrained(directory), which writes the adapter alone as safetensors",
            )
