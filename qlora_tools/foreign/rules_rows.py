"""How rows become tokens and labels."""

import ast
from collections.abc import Iterator

from .lint_subject import Found, Subject, known

_HIDES_PADDING = ("DataCollatorForLanguageModeling", "DataCollatorForCompletionOnlyLM", "train_on_responses_only")


def padding_that_is_learnt(subject: Subject) -> Iterator[Found]:
    """Rows padded when they are tokenised, and labels that are a plain copy of them."""
    padded = _padded_to_the_limit(subject)
    if padded is None or subject.source.calls_of(*_HIDES_PADDING) or _has_ignored_labels(subject):
        return
    for node in ast.walk(subject.source.tree):
        for line, value in _labels_made_by(node):
            if "input_ids" in subject.source.constants.value(value).text:
                yield Found(
                    line,
                    line,
                    "labels are a copy of padded rows",
                    f"Rows are padded to the limit (line {padded}) and every padding token counts in the loss: short rows "
                    "teach mostly padding, and the loss looks better than it is.",
                    "set labels to -100 where attention_mask is 0, or leave padding to a collator",
                )


def _padded_to_the_limit(subject: Subject) -> int | None:
    for call in subject.source.calls:
        # `from_pretrained` takes it too, and forgets it.
        if known(call, "padding") == "max_length" and call.last_name != "from_pretrained":
            return call.line
    return None


def _has_ignored_labels(subject: Subject) -> bool:
    return any(
        isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant) and node.operand.value == 100
        for node in ast.walk(subject.source.tree)
    )


def _labels_made_by(node: ast.AST) -> Iterator[tuple[int, ast.expr]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Subscript) and _is_labels(target.slice):
                yield node.lineno, node.value
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None and _is_labels(key):
                yield value.lineno, value


def _is_labels(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == "labels"


def formatting_in_batches(subject: Subject) -> Iterator[Found]:
    """A `formatting_func` that returns a list, as older versions of TRL wanted."""
    if subject.is_unsloths:
        return
    functions = {node.name: node for node in ast.walk(subject.source.tree) if isinstance(node, ast.FunctionDef)}
    for call in subject.sft_trainers:
        given = call.arguments.get("formatting_func")
        function = functions.get(given.text) if given else None
        returned = list(_returns(function)) if function else []
        if function and returned and all(_is_list(item, function) for item in returned):
            yield Found(
                function.lineno,
                function.end_lineno or function.lineno,
                f"formatting_func returns a list (function {function.name})",
                "SFTTrainer calls it with one row and wants one text: a list ends in AttributeError when EOS is appended "
                "(trl 1.15; older versions called it with batches).",
                "return the text of one row",
            )


def _returns(function: ast.FunctionDef) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            yield node.value


def _is_list(node: ast.expr, function: ast.FunctionDef) -> bool:
    if isinstance(node, ast.List | ast.ListComp):
        return True
    if not isinstance(node, ast.Name):
        return False
    bound = [item.value for item in ast.walk(function) if isinstance(item, ast.Assign) and _binds(item, node.id)]
    return bool(bound) and all(isinstance(value, ast.List | ast.ListComp) for value in bound)


def _binds(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
