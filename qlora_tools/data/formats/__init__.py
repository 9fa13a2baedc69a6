"""Formats: recognising what rows are by their content, and bringing each to its normal form."""
