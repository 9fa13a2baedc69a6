"""Whether a script reads and tokenises rows as training does: its own functions are run beside ours.

What runs is the text of a template that differs from it in constants alone (`rendering.py` has made sure), and of that only
the functions for rows.
"""

import ast
import runpy
import tempfile
from pathlib import Path
from typing import Any

from ..config.schema import RunConfig
from ..data.dataset import NumberedExamples
from ..data.examples import Example, PlainText
from ..data.rows import TokenRow
from .script_rows import NotPlainError, RowsAtHand

_MODULES = {"csv", "datasets", "json", "os", "pathlib", "sys", "typing"}
_CONSTANTS = {"IGNORED", "SPECIAL"}
_FUNCTIONS = {
    *("read_rows", "to_text", "to_pair", "to_messages", "is_usable", "read_examples"),
    *("render", "answer_span", "encode"),
}
_MOST_TOKENISED = 500
# What reading rows the plain way raises where they are not plain.
_READING_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, SystemExit)


def require_same_rows(script: str, config: RunConfig, here: RowsAtHand) -> None:
    """Raise `NotPlainError` unless `script` reads every row as training does, and tokenises up to 500 of them so."""
    functions = _functions_of(script, here.renderer.tokenizer)
    data, rows = config.data, here.rows
    is_pair = here.renderer.style == "verbatim"
    read = [_plain(example, is_pair) for example in _all_training(here, config)]
    try:
        found = functions["read_examples"](data.path)
    except _READING_ERRORS as error:
        raise NotPlainError(f"plain reading fails ({type(error).__name__})") from None
    if found != read:
        raise NotPlainError("plain reading gives other rows than training has")
    if data.evaluation_path is not None and rows.evaluation is not None:
        held = [_plain(example, is_pair) for example in rows.evaluation.examples]
        if functions["read_examples"](data.evaluation_path) != held:
            raise NotPlainError("plain reading gives other held-out rows than training has")
    _require_same_tokens(functions, config, here)


def _all_training(here: RowsAtHand, config: RunConfig) -> list[Example]:
    """The rows of the training file: those that a share of held-out rows was taken from included, in their order."""
    training, evaluation = here.rows.training, here.rows.evaluation
    if not config.data.evaluation_fraction or evaluation is None:
        return list(training.examples)
    numbered = [*zip(training.numbers, training.examples, strict=True)]
    numbered += zip(evaluation.numbers, evaluation.examples, strict=True)
    return [example for _, example in sorted(numbered, key=lambda pair: pair[0])]


def _require_same_tokens(functions: dict[str, Any], config: RunConfig, here: RowsAtHand) -> None:
    examples, numbers = here.rows.training.examples, here.rows.training.numbers
    is_pair = here.renderer.style == "verbatim"
    step = -(-len(examples) // _MOST_TOKENISED)
    chosen = NumberedExamples(examples[::step], numbers[::step])
    uncut = config.training.model_copy(update={"max_length_tokens": 2**30})
    wanted = {row.number: row for row in here.tokens(chosen, config.model_copy(update={"training": uncut}))}
    for number, example in zip(chosen.numbers, chosen.examples, strict=True):
        try:
            encoded = functions["encode"](_plain(example, is_pair))
        except _READING_ERRORS:
            raise NotPlainError(
                "the chat template writes answers in a way that takes more than plain masking"
            ) from None
        row = wanted.get(number)
        learns = any(label != functions["IGNORED"] for label in encoded["labels"])
        if (row is None) == learns or (row is not None and not _same(encoded, row)):
            raise NotPlainError("plain masking learns other tokens than training does")


def _same(encoded: dict[str, list[int]], row: TokenRow) -> bool:
    """Tokens and labels; the first label predicts nothing, so it counts for nothing."""
    return encoded["input_ids"] == row.input_ids and encoded["labels"][1:] == row.labels[1:]


def _plain(example: Example, is_pair: bool) -> Any:
    """What a plain script holds of a row; a row with tools or calls has no plain form."""
    if isinstance(example, PlainText):
        return example.text
    if example.tools:
        raise NotPlainError("rows offer tools")
    turns = [dict(turn) for turn in example.messages]
    if any(turn.keys() != {"role", "content"} for turn in turns):
        raise NotPlainError("turns hold more than role and content")
    return tuple(turn["content"] for turn in turns) if is_pair else turns


def _functions_of(script: str, tokenizer: Any) -> dict[str, Any]:
    """The functions for rows of a script, with our tokenizer: loaded from a file, as Python runs any script."""
    chosen = [node for node in ast.parse(script).body if _is_about_rows(node)]
    with tempfile.TemporaryDirectory(prefix="qlora-rows-") as folder:
        path = Path(folder, "rows.py")
        path.write_text(ast.unparse(ast.Module(chosen, type_ignores=[])), encoding="utf-8")
        return runpy.run_path(str(path), init_globals={"tokenizer": tokenizer})


def _is_about_rows(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import):
        return all(alias.name.partition(".")[0] in _MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] in _MODULES
    if isinstance(node, ast.FunctionDef):
        return node.name in _FUNCTIONS
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return isinstance(target, ast.Name) and target.id in _CONSTANTS
