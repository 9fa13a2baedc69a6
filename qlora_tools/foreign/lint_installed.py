"""What the installed libraries take, read from their sources: they are neither imported nor run."""

import ast
import difflib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from .calls import Call
from .lint_subject import Found, Subject, at, written
from .rules_stale import STALE_NAMES

LIBRARIES = ("transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "torch")
# The class, and the files that hold it and its bases.
_FIELDS = {
    "TrainingArguments": (("transformers", "transformers/training_args.py", "TrainingArguments"),),
    "SFTConfig": (
        ("transformers", "transformers/training_args.py", "TrainingArguments"),
        ("trl", "trl/trainer/base_config.py", "_BaseConfig"),
        ("trl", "trl/trainer/sft_config.py", "SFTConfig"),
    ),
    "LoraConfig": (
        ("peft", "peft/config.py", "PeftConfigMixin"),
        ("peft", "peft/config.py", "PeftConfig"),
        ("peft", "peft/tuners/lora/config.py", "LoraConfig"),
    ),
}
_PARAMETERS = {
    "SFTTrainer": (("trl", "trl/trainer/sft_trainer.py", "SFTTrainer"),),
    "Trainer": (("transformers", "transformers/trainer.py", "Trainer"),),
    "get_peft_model": (("peft", "peft/mapping_func.py", "get_peft_model"),),
}


@cache
def installed_versions() -> dict[str, str]:
    """The version of each library that is installed here."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def unknown_arguments(subject: Subject) -> Iterator[Found]:
    """Arguments that the installed version does not have, beside those that are known to be gone."""
    unsloths = ("SFTTrainer", "Trainer", "SFTConfig", "TrainingArguments") if subject.is_unsloths else ()
    for name in (*_FIELDS, *_PARAMETERS):
        taken = _taken(name)
        if taken and name not in unsloths:
            for call in subject.calls_of(name):
                # Methods of other classes may have the same name.
                if call.name in (name, f"{_library_of(name)}.{name}"):
                    yield from _unknown(call, taken)


def _library_of(name: str) -> str:
    return (_FIELDS.get(name) or _PARAMETERS[name])[-1][0]


def _unknown(call: Call, taken: frozenset[str]) -> Iterator[Found]:
    for name in call.arguments:
        if name not in taken and name not in STALE_NAMES:
            near = difflib.get_close_matches(name, sorted(taken), n=1, cutoff=0.6)
            yield Found(
                *at(call, name),
                f"{call.last_name} takes no {name}",
                "The call raises TypeError with the installed version.",
                f"did you mean {near[0]}?" if near else "delete it, or find what took its place",
                written(call, name),
            )


@cache
def _taken(name: str) -> frozenset[str]:
    """Names that the class takes; empty where it cannot be told."""
    found: set[str] = set()
    for library, file, holder in _FIELDS.get(name, _PARAMETERS.get(name, ())):
        names = _names_in(library, file, holder, fields=name in _FIELDS)
        if not names:
            return frozenset()
        found |= names
    return frozenset(found)


def _names_in(library: str, file: str, holder: str, *, fields: bool) -> set[str]:
    node = _definition(library, file, holder)
    if node is None:
        return set()
    if fields:
        return {
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
    inside = [node] if isinstance(node, ast.FunctionDef) else node.body
    made = [item for item in inside if isinstance(item, ast.FunctionDef) and item.name in ("__init__", holder)]
    if not made or made[0].args.kwarg is not None:
        return set()
    return {item.arg for item in (*made[0].args.args, *made[0].args.kwonlyargs)}


def _definition(library: str, file: str, holder: str) -> ast.ClassDef | ast.FunctionDef | None:
    try:
        text = Path(str(distribution(library).locate_file(file))).read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (PackageNotFoundError, OSError, SyntaxError):
        return None
    kinds = ast.ClassDef | ast.FunctionDef
    return next((node for node in tree.body if isinstance(node, kinds) and node.name == holder), None)
