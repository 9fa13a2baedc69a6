"""Jinja templates of what qlora-tools renders; installed as `qlora_tools.templates`."""
