"""The server's log: stderr alone, warnings and worse, without secrets."""

import logging
import sys

from qlora_tools.hiding import HidingStream


def log_to_stderr() -> HidingStream:
    """Send the log, and whatever else is written to `sys.stderr`, through a stream that hides secrets.

    Called before a server is made: the SDK sets up a log of its own, with colours and frames, only where there is none.
    """
    if isinstance(sys.stderr, HidingStream):
        return sys.stderr
    stream = HidingStream(sys.stderr)
    sys.stderr = stream  # type: ignore[assignment]
    logging.basicConfig(
        level=logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=stream,  # type: ignore[type-var]
    )
    return stream
