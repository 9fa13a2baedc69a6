"""The MCP server: thin tools over `qlora_tools`; installed as `qlora_tools.server`."""

from .app import build_server

__all__ = ["build_server"]
