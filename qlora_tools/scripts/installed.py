"""Whether the installed libraries have every name and argument that a script uses."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import MissingLibraryError
from ..foreign.calls import Call, read_script
from .library_sources import Definition, LibrarySources, installed_sources
from .notebook import script_dependencies

# Whose method of the same name gets what a method does not take itself.
_HANDED_ON = {
    "transformers.AutoModelForCausalLM.from_pretrained": "transformers.PreTrainedModel",
    "transformers.AutoTokenizer.from_pretrained": "transformers.PreTrainedTokenizerBase",
}
# Whose methods a script calls on its variables; one of them has to take the argument.
_METHODS = {
    ".apply_chat_template": ("transformers.PreTrainedTokenizerBase",),
    ".generate": ("transformers.GenerationMixin",),
    ".merge_and_unload": ("peft.LoraModel",),
    ".save_pretrained": ("peft.PeftModel", "transformers.PreTrainedTokenizerBase", "transformers.PreTrainedModel"),
    ".train": ("transformers.Trainer",),
}
# What `generate` takes beside its own arguments: the inputs of the model, and the settings of a GenerationConfig.
_INPUTS = frozenset({"input_ids", "attention_mask"})
# They take any argument, and refuse or ignore those that they do not know.
_CLOSED = frozenset({"transformers.BitsAndBytesConfig", "transformers.GenerationConfig"})
# Most of torch is compiled, and its source tells nothing.
_COMPILED = frozenset({"torch", "safetensors", "numpy"})


@dataclass(frozen=True)
class CheckedNames:
    """`checked` maps each library to the installed version in which all was found; `unchecked` says why others were not."""

    checked: dict[str, str] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)


def check_names(script_text: str, sources: LibrarySources | None = None) -> CheckedNames:
    """Look up every import of a script, and every argument of the calls to libraries, in the installed sources.

    Raises `MissingLibraryError` naming all that an installed library does not have.
    """
    here = sources or installed_sources()
    script = read_script(script_text, name="script")
    imported = sorted(set(_imports(script.tree)))
    libraries = sorted({module.partition(".")[0] for module, _ in imported})
    absent = [library for library in libraries if here.folder(library) is None]
    problems = [
        (module.partition(".")[0], f"{module}.{name}" if name else module)
        for module, name in imported
        if module.partition(".")[0] not in absent and not _exists(here, module, name)
    ]
    problems += [
        (library, words)
        for call in script.calls
        for library, words in _unknown_arguments(here, call)
        if library not in absent
    ]
    if problems:
        raise _gone(here, script_text, list(dict.fromkeys(problems)))
    return CheckedNames(
        {library: here.version(library) for library in libraries if library not in absent},
        [f"{library} is not installed here; its names were not looked up." for library in absent],
    )


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module and name of each import from a library; an empty name for the module itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if _is_library(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _is_library(node.module):
            yield from ((node.module, alias.name) for alias in node.names)


def _is_library(module: str) -> bool:
    return module.partition(".")[0] not in sys.stdlib_module_names


def _exists(here: LibrarySources, module: str, name: str) -> bool:
    library, _, rest = module.partition(".")
    if library in _COMPILED:
        return True
    if not name:
        return not rest or here.find(module.rpartition(".")[0], module.rpartition(".")[2]) is not None
    return here.find(module, name) is not None


def _unknown_arguments(here: LibrarySources, call: Call) -> Iterator[tuple[str, str]]:
    """Library and words of each argument that what is called does not take."""
    taken = _taken(here, call) if call.arguments else None
    if taken:
        library = _METHODS.get(call.name, (call.name,))[0].partition(".")[0]
        shown = f"{call.name.removeprefix(library)}".lstrip(".")
        yield from ((library, f"{shown}({name}=...)") for name in call.arguments if name not in taken)


def _taken(here: LibrarySources, call: Call) -> frozenset[str] | None:
    """The arguments that the callable takes; None where that is not known, or it is not of a library."""
    if call.name in _METHODS:
        return _of_variable(here, call.name)
    library, _, rest = call.name.partition(".")
    if not rest or library in _COMPILED or not _is_library(library):
        return None
    definition, method = _definition(here, call.name), ""
    if definition is None:
        holder, _, method = call.name.rpartition(".")
        definition = _definition(here, holder)
    if definition is None:
        return None
    names, is_open = here.method(definition, method) if method else here.arguments(definition)
    if call.name in _HANDED_ON:
        below = _definition(here, _HANDED_ON[call.name])
        return names | (frozenset() if below is None else here.method(below, method)[0])
    return names if not is_open or call.name in _CLOSED else None


def _of_variable(here: LibrarySources, name: str) -> frozenset[str]:
    """The arguments of a method that a script calls on a variable."""
    method = name.lstrip(".")
    holders = [_definition(here, holder) for holder in _METHODS[name]]
    taken = frozenset[str]().union(*(here.method(holder, method)[0] for holder in holders if holder is not None))
    return taken | _INPUTS | _settings(here) if method == "generate" else taken


def _settings(here: LibrarySources) -> frozenset[str]:
    definition = _definition(here, "transformers.GenerationConfig")
    return frozenset() if definition is None else here.arguments(definition)[0]


def _definition(here: LibrarySources, name: str) -> Definition | None:
    module, _, last = name.rpartition(".")
    return here.find(module, last) if module else None


def _gone(here: LibrarySources, script_text: str, problems: list[tuple[str, str]]) -> MissingLibraryError:
    requirements = script_dependencies(script_text)
    lines = []
    for library in dict.fromkeys(library for library, _ in problems):
        names = ", ".join(words for found, words in problems if found == library)
        lines.append(f"{library} {here.version(library)} has no {names}")
    wanted = [item for item in requirements if any(item.startswith(library) for library, _ in problems)]
    return MissingLibraryError(
        f"The script would not run with the installed libraries: {'; '.join(lines)}. It is written for "
        f"{', '.join(wanted) or 'other versions'}.",
        next_step=f"Run: pip install {' '.join(repr(item) for item in wanted)}"
        if wanted
        else "Update these libraries.",
    )
