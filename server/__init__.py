"""The MCP server: thin tools over `qlora_tools`; installed as `qlora_tools.server`."""

from .app import build_server
from .options import ServerOptions

__all__ = ["ServerOptions", "build_server"]
