"""The text of a file that somebody else wrote."""

from pathlib import Path

from ..errors import UsageError


def text_of_file(path: Path, *, name: str, most_bytes: int = 64 * 2**20) -> str:
    """The text of `path`, called `name` in errors. Raises `UsageError` for what is no UTF-8 text, too large or not there."""
    try:
        if path.stat().st_size > most_bytes:
            raise UsageError(f"{name} is over {most_bytes // 2**20} MiB, too large.", next_step="Check the path.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error.strerror).lower()
        raise UsageError(f"{name} cannot be read: {reason}.", next_step="Check the path and the file.") from None
