"""What a command's SOURCE means: a directory, or the job that made it."""

from pathlib import Path

from ..paths import as_path


def directory_of(source: str, workspace: Path | None) -> Path:
    """A path is told by its form, or by being there; anything else is the id of a job, or `last`."""
    path = as_path(source)
    if "/" in source or source.startswith((".", "~")) or path.exists():
        return path
    from ..jobs import get_job

    return Path(get_job(source, workspace=workspace).output_directory)
