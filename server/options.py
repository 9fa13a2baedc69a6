"""What a server was started with."""

from dataclasses import dataclass
from pathlib import Path

from qlora_tools.access import Access


@dataclass(frozen=True)
class ServerOptions:
    """One workspace, what may be read beside it, and whether tools that change anything are left out."""

    access: Access
    read_only: bool = False

    @property
    def workspace(self) -> Path:
        """Where jobs, data and results lie; relative paths count from here."""
        return self.access.workspace
