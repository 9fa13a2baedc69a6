"""`qlora mcp`."""

import click


@click.command("mcp")
def command() -> None:
    """Serve the tools over MCP on stdin and stdout, for agents such as Claude Code, Codex or Cursor.

    Register it with the command `qlora mcp`; no torch is imported in the server process.
    """
    from ..server import build_server

    build_server().run("stdio")
