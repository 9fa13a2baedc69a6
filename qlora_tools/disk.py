"""What a disk refuses, in words."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DiskSpaceError, MachineError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)


@contextmanager
def disk_errors(path: Path, *, left: str) -> Iterator[None]:
    """Turn a full or forbidden disk into a `MachineError`; `left` says what stands there now."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            step = "Free space there, or choose another directory."
            raise DiskSpaceError(f"The disk of {path} is full; {left}.", next_step=step) from None
        if error.errno == errno.EFBIG:
            step = "Choose a disk with another file system (FAT32 holds 4 GiB a file), or raise `ulimit -f`."
            raise MachineError(f"The disk of {path} takes no file so large; {left}.", next_step=step) from None
        if error.errno in _NOT_ALLOWED:
            step = "Choose another directory, or change its permissions."
            raise MachineError(f"No permission to write to {error.filename or path}; {left}.", next_step=step) from None
        raise
