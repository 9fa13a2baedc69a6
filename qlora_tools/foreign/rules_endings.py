"""Whether a model learns to stop: the end of answers in texts and in labels."""

import ast
import re
from collections.abc import Iterator

from .lint_subject import Found, Subject, known

_LONGEST_TEMPLATE = 20_000
# Marks between which people write prompts and answers by hand.
_TEMPLATE = re.compile(
    r"#{2,3} ?(?:Response|Answer|Output|Assistant|Completion)\b|\[/INST\]|<\|assistant\|>|\n(?:Answer|Response|Output): ?$",
    re.IGNORECASE,
)
_END = re.compile(
    r"</s>|<\|im_end\|>|<\|eot_id\|>|<\|end_of_text\|>|<\|endoftext\|>|<eos>|<end_of_turn>|<\|end\|>|<\|eot\|>"
    r"|<turn\|>|<\|return\|>|EOS_TOKEN|eos_token|<\|end▁of▁sentence\|>|<｜end▁of▁sentence｜>"
)
_PAD = re.compile(r"pad_token_id|\bpad_id\b")
_ENDS_BY_ITSELF = ("apply_chat_template", "get_chat_template", "train_on_responses_only")


def padding_with_eos(subject: Subject) -> Iterator[Found]:
    """EOS as padding, and labels that hide whatever is padding."""
    masks = _where_padding_is_hidden(subject)
    for line, given in _paddings_with_eos(subject) if masks is not None else ():
        yield Found(
            line,
            line,
            "EOS is the padding, and labels hide padding: the end of an answer is never learnt",
            f"Line {masks} sets the label of every padding id to -100, those of real EOS too, so the model does not "
            "stop (transformers, DataCollatorForLanguageModeling).",
            "give padding a token of its own, one that the tokenizer has and texts do not (such as its unk or a reserved "
            "one), or hide by attention_mask instead of by id",
            given,
        )


def _paddings_with_eos(subject: Subject) -> Iterator[tuple[int, str]]:
    for item in subject.assigned_to("pad_token", "pad_token_id"):
        if item.value.text.endswith((".eos_token", ".eos_token_id")) and ".config." not in item.target:
            yield item.line, f"{item.target} = {item.value.text}"
    for call in subject.source.calls_of("add_special_tokens"):
        first = call.positional[0].node if call.positional else None
        for key, value in zip(first.keys, first.values, strict=True) if isinstance(first, ast.Dict) else ():
            text = subject.source.constants.value(value).text
            if isinstance(key, ast.Constant) and key.value == "pad_token" and text.endswith(".eos_token"):
                yield call.line, f'"pad_token": {text}'


def _where_padding_is_hidden(subject: Subject) -> int | None:
    for call in subject.calls_of("DataCollatorForLanguageModeling"):
        if not call.name.startswith("trl.") and known(call, "mlm", True) is False:
            return call.line
    for call in subject.calls_of("DataCollatorForCompletionOnlyLM"):
        return call.line
    for node in ast.walk(subject.source.tree):
        if _hides_padding(subject, node):
            return getattr(node, "lineno", None)
    return None


def _hides_padding(subject: Subject, node: ast.AST) -> bool:
    """`labels[ids == pad_token_id] = -100`, `-100 if id == pad_token_id else id`, `masked_fill(ids == pad, -100)`."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        return _is_ignored(node.value) and _compares_padding(subject, node.targets[0].slice)
    if isinstance(node, ast.IfExp):
        hides = _is_ignored(node.body) and _compares_padding(subject, node.test, ast.Eq)
        return hides or (_is_ignored(node.orelse) and _compares_padding(subject, node.test, ast.NotEq))
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("masked_fill", "where")
    ):
        return any(_is_ignored(item) for item in node.args) and any(
            _compares_padding(subject, item) for item in node.args
        )
    return False


def _is_ignored(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant) and node.operand.value == 100


def _compares_padding(subject: Subject, node: ast.expr, how: type[ast.cmpop] | None = None) -> bool:
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or (how and not isinstance(node.ops[0], how)):
        return False
    return any(_PAD.search(subject.source.constants.value(side).text) for side in (node.left, *node.comparators))


def text_without_end(subject: Subject) -> Iterator[Found]:
    """A template by hand, and no EOS anywhere."""
    if not subject.trains or subject.source.calls_of(*_ENDS_BY_ITSELF) or _names_an_end(subject):
        return
    # TRL ends texts itself; only a script for an older one needs to.
    sft = bool(subject.sft_trainers)
    if sft and not _is_for_an_older_trl(subject):
        return
    template = next((item for item in _templates(subject)), None)
    if template is not None:
        yield Found(
            template.lineno,
            template.end_lineno or template.lineno,
            "texts are made by hand and never end with EOS",
            "A model that never saw the end does not stop."
            + (" SFTTrainer adds it since trl 0.17, the trl that this script is written for does not." if sft else ""),
            "end every text with tokenizer.eos_token",
            severity="note" if sft else "warning",
        )


def _is_for_an_older_trl(subject: Subject) -> bool:
    stale = {"tokenizer", "max_seq_length", "dataset_text_field"}
    configured = any("max_seq_length" in call.arguments for call in subject.training_arguments)
    imported = any(name.endswith(".DataCollatorForCompletionOnlyLM") for name, _ in subject.imports)
    return configured or imported or any(stale & set(call.arguments) for call in subject.sft_trainers)


def _templates(subject: Subject) -> Iterator[ast.expr]:
    """Expressions in which an answer follows a mark; a prompt that ends with the mark is for asking."""
    documentation = _documentation(subject.source.tree)
    for node in ast.walk(subject.source.tree):
        if isinstance(node, ast.JoinedStr):
            marks = [place for place, part in enumerate(node.values) if _marked(part)]
            if marks and any(isinstance(part, ast.FormattedValue) for part in node.values[marks[0] + 1 :]):
                yield node
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            found = _TEMPLATE.search(node.value[:_LONGEST_TEMPLATE])
            if found and "{" in node.value[found.end() :]:
                yield node
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            before = node.left.right if isinstance(node.left, ast.BinOp) else node.left
            if _marked(before) and not isinstance(node.right, ast.Constant):
                yield node


def _marked(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(_TEMPLATE.search(node.value))


def _documentation(tree: ast.Module) -> set[int]:
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def _names_an_end(subject: Subject) -> bool:
    """Whether EOS is named anywhere but in the line that makes it the padding."""
    lines = subject.source.text.split("\n")
    padding = {item.line for item in subject.assigned_to("pad_token", "pad_token_id")}
    given = re.compile(r"(?:pad_token(?:_id)?|eos_token_id)\s*=|eos_token_id\b")
    return any(
        _END.search(line) and number not in padding and not given.search(line)
        for number, line in enumerate(lines, 1)
        if not line.lstrip().startswith("#")
    )
