"""Handing over to an installed OpenAI-compatible server, with the right arguments, checked before it starts."""

from .plan import ServerName, plan_serving
from .serve import serve

__all__ = ["ServerName", "plan_serving", "serve"]
