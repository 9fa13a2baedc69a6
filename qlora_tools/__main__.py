"""`python -m qlora_tools` is the `qlora` command."""

from .cli.main import main

main()
