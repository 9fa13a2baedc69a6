"""What rules look at: the calls of a script that are really those of the libraries, what it assigns, what it imports."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .calls import Call, ScriptSource
from .constants import Value

LIBRARIES = frozenset("transformers trl peft bitsandbytes datasets accelerate torch unsloth".split())  # noqa: SIM905
TRL_CONFIGS = ("SFTConfig", "DPOConfig", "KTOConfig", "GRPOConfig", "RewardConfig", "ORPOConfig", "CPOConfig")
TRL_TRAINERS = ("SFTTrainer", "DPOTrainer", "KTOTrainer", "GRPOTrainer", "RewardTrainer", "ORPOTrainer", "CPOTrainer")
_PLAIN_TRAINERS = ("Trainer", "Seq2SeqTrainer")
_NO_LANGUAGE_MODEL = (
    "AutoTokenizer",
    "AutoConfig",
    "AutoProcessor",
    "PeftConfig",
    "GenerationConfig",
    "AutoImageProcessor",
)


@dataclass(frozen=True)
class Found:
    """One place that a rule objects to. `replacement` is the exact text for `given`, where that is all there is to do."""

    line: int
    end_line: int
    what: str
    why: str
    fix: str
    given: str = ""
    replacement: str | None = None
    severity: str | None = None


@dataclass(frozen=True)
class Assigned:
    """`target = value` where the target is an attribute, such as `tokenizer.pad_token`."""

    target: str
    value: Value
    line: int


@dataclass(frozen=True)
class Subject:
    """A script with what several rules ask of it."""

    source: ScriptSource

    def calls_of(self, *names: str) -> list[Call]:
        """The calls of that name, without those of classes that the script or its neighbours define themselves."""
        return [call for call in self.source.calls_of(*names) if self._is_of_a_library(call)]

    def _is_of_a_library(self, call: Call) -> bool:
        head = call.name.partition(".")[0]
        return head in LIBRARIES or (head != "" and head not in self._defined and head not in self.source.names.imports)

    @cached_property
    def _defined(self) -> frozenset[str]:
        kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        return frozenset(node.name for node in ast.walk(self.source.tree) if isinstance(node, kinds))

    @cached_property
    def imported(self) -> frozenset[str]:
        """The top modules that are imported."""
        return frozenset(name.partition(".")[0] for name in self.source.names.imports.values())

    @property
    def is_unsloths(self) -> bool:
        """Unsloth replaces parts of the other libraries when it is imported: what they take is then its own matter."""
        return "unsloth" in self.imported

    @cached_property
    def imports(self) -> list[tuple[str, int]]:
        """Every `from module import name`, and every `module.name` that is called, dotted and with its line."""
        calls = [call for call in self.source.calls if call.node and isinstance(call.node.func, ast.Attribute)]
        found = [(call.name, call.line) for call in calls if call.name.count(".") == 1]
        for node in ast.walk(self.source.tree):
            if isinstance(node, ast.ImportFrom) and not node.level:
                found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
        return sorted(set(found), key=lambda item: item[1])

    @cached_property
    def training_arguments(self) -> list[Call]:
        """The calls that make the arguments of a trainer."""
        return self.calls_of("TrainingArguments", "Seq2SeqTrainingArguments", *TRL_CONFIGS)

    @cached_property
    def trl_trainers(self) -> list[Call]:
        """The calls that make a trainer of TRL."""
        return self.calls_of(*TRL_TRAINERS)

    @cached_property
    def sft_trainers(self) -> list[Call]:
        """The calls that make an `SFTTrainer`."""
        return self.calls_of("SFTTrainer")

    @cached_property
    def plain_trainers(self) -> list[Call]:
        """The calls that make a trainer of Transformers."""
        return self.calls_of(*_PLAIN_TRAINERS)

    @cached_property
    def loads(self) -> list[Call]:
        """The calls that load the weights of a language model, not its adapter."""
        found = self.calls_of("from_pretrained")
        return [call for call in found if _is_model(call.name.split(".")[-2:-1])]

    @cached_property
    def quantisations(self) -> list[Call]:
        """The `BitsAndBytesConfig`s."""
        return self.calls_of("BitsAndBytesConfig")

    @cached_property
    def four_bit(self) -> list[Call]:
        """The `BitsAndBytesConfig`s that surely ask for 4 bits."""
        return [call for call in self.quantisations if is_true(call, "load_in_4bit")]

    @cached_property
    def loads_in_four_bits(self) -> list[Call]:
        """The calls that load a model in 4 bits, as far as the tree tells."""
        return [call for call in self.loads if self._in_four_bits(call)]

    def _in_four_bits(self, call: Call) -> bool:
        if is_true(call, "load_in_4bit"):
            return True
        given = call.arguments.get("quantization_config")
        made = self.source.call_behind(given) if given else None
        return made is not None and made in self.four_bit

    @cached_property
    def adapters(self) -> list[Call]:
        """The `LoraConfig`s, and the calls of Unsloth in their place."""
        return self.calls_of("LoraConfig")

    @cached_property
    def assigned(self) -> list[Assigned]:
        """What is assigned to attributes, in the order of lines."""
        found = []
        for node in ast.walk(self.source.tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Attribute):
                        value = self.source.constants.value(node.value)
                        found.append(Assigned(self.source.constants.value(target).text, value, node.lineno))
        return sorted(found, key=lambda item: item.line)

    def assigned_to(self, *last_parts: str) -> list[Assigned]:
        """Those to `....last_part`."""
        return [item for item in self.assigned if item.target.endswith(tuple(f".{part}" for part in last_parts))]

    @property
    def trains(self) -> bool:
        """Whether anything in the script trains a model."""
        backward = any(call.last_name == "backward" for call in self.source.calls)
        made = self.training_arguments or self.trl_trainers or self.plain_trainers
        return bool(made or (backward and self.loads))

    @property
    def kind(self) -> str:
        """What `LintResult.kind` says."""
        adapted = self.adapters or self.calls_of("get_peft_model", "FastLanguageModel.get_peft_model")
        if adapted and (self.four_bit or self.loads_in_four_bits):
            return "qlora"
        if adapted:
            return "lora"
        return "training" if self.trains else "other"


def _is_model(holder: list[str]) -> bool:
    if not holder or holder[0] in _NO_LANGUAGE_MODEL:
        return False
    name = holder[0]
    # PeftModel takes a base and an adapter, and has rules of its own.
    other = name.endswith(("Tokenizer", "TokenizerFast", "Processor", "Config", "PeftModel", "PeftModelForCausalLM"))
    auto = name.startswith("AutoPeftModel")
    return auto or (not other and ("Model" in name or name.endswith(("ForCausalLM", "ForConditionalGeneration"))))


def known(call: Call, name: str, otherwise: Any = None) -> Any:
    """The argument's value where the tree tells it, else `otherwise`."""
    value = call.arguments.get(name)
    return value.value if value is not None and value.known else otherwise


def is_true(call: Call, name: str) -> bool:
    """Whether the argument is surely True."""
    return known(call, name) is True


def is_absent(call: Call, name: str) -> bool:
    """Whether the argument is surely not given."""
    return call.complete and name not in call.arguments


def at(call: Call, name: str | None = None) -> tuple[int, int]:
    """The lines of an argument, or of the whole call."""
    value = call.arguments.get(name) if name else None
    node = value.node if value else None
    if node is None or not call.line <= node.lineno <= call.end_line:
        return call.line, call.end_line
    return node.lineno, node.end_lineno or node.lineno


def written(call: Call, name: str) -> str:
    """The argument as it stands: `r=16`."""
    return f"{name}={call.arguments[name].text}"


def each_with(calls: list[Call], name: str) -> Iterator[tuple[Call, Value]]:
    """The calls that are given the argument, with its value."""
    for call in calls:
        if name in call.arguments:
            yield call, call.arguments[name]
