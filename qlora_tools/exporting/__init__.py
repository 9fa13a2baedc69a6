"""Handing a model on to other tools: GGUF, Ollama, vLLM, an adapter package, the Hub; each with its model card."""
