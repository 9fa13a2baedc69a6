"""Handing over to an installed OpenAI-compatible server, with the right arguments, checked before it starts."""
