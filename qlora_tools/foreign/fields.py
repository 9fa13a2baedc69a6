"""Fields of dataclasses and options of argparse: their names and defaults."""

import ast


def default_of_field(value: ast.expr | None) -> ast.expr | None:
    """The default of a dataclass's field, also one that stands in `field(default=...)`."""
    if not isinstance(value, ast.Call):
        return value
    return next((word.value for word in value.keywords if word.arg == "default"), None)


def name_of_option(node: ast.Call) -> str | None:
    """What the option of an `add_argument` is called as an attribute."""
    for word in node.keywords:
        if word.arg == "dest" and isinstance(word.value, ast.Constant):
            return str(word.value.value)
    names = [item.value for item in node.args if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    long = [name for name in names if name.startswith("--")] or names
    return long[0].lstrip("-").replace("-", "_") if long else None


def default_of_option(node: ast.Call) -> ast.expr | None:
    """Its default; of a switch the value without it."""
    given = {word.arg: word.value for word in node.keywords}
    action = given.get("action")
    if "default" not in given and isinstance(action, ast.Constant) and action.value in ("store_true", "store_false"):
        return ast.copy_location(ast.Constant(action.value == "store_false"), node)
    return given.get("default")
