"""Evaluations: `offline` needs nothing but this repository, `evals.json` is for runs with a model in the loop."""
