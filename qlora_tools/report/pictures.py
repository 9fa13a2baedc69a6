"""PNG files: where one may be written, an empty figure, and writing it."""

import io
from pathlib import Path
from typing import Any

from ..disk import disk_errors
from ..errors import MissingLibraryError, UsageError

_PNG_SIGN = b"\x89PNG\r\n\x1a\n"
_DOTS_PER_INCH = 150
_PADDING = 0.12


def check_picture(path: Path) -> None:
    """Raise `UsageError` unless a PNG may be written to `path`: a new file, or one that is a PNG already."""
    if path.suffix.lower() != ".png":
        raise UsageError(
            f"The picture {path} does not end in .png.", next_step=f"Write for example {path.stem or 'picture'}.png."
        )
    with disk_errors(path, left="nothing was written"):
        if not path.parent.is_dir():
            raise UsageError(f"There is no directory {path.parent}.", next_step=f"Make it first: mkdir {path.parent}")
        if path.exists() and not (path.is_file() and _starts_as_png(path)):
            raise UsageError(
                f"{path} is there already and is not a PNG; it was left as it is.", next_step="Choose another name."
            )


def _starts_as_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PNG_SIGN)) == _PNG_SIGN


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, in inches, that needs no display; raises `MissingLibraryError` in the light install."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError:
        raise MissingLibraryError(
            "Drawing a picture needs matplotlib, which the light install leaves out.",
            next_step="Run: pip install 'qlora-tools[train]', or: pip install matplotlib",
        ) from None
    layout = ConstrainedLayoutEngine(w_pad=_PADDING, h_pad=_PADDING)
    return Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, layout=layout)


def save_png(figure: Any, path: Path) -> None:
    """Write `figure` to `path`; raises `MachineError` where the disk refuses."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with disk_errors(path, left="the picture was not written"):
        path.write_bytes(buffer.getvalue())


def ink_on(colour: Any) -> str:
    """Black or white, whichever has more contrast with `colour` (WCAG's relative luminance)."""
    from matplotlib.colors import to_rgb

    linear = [((part + 0.055) / 1.055) ** 2.4 if part > 0.04 else part / 12.92 for part in to_rgb(colour)]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "black" if luminance > 0.18 else "white"
