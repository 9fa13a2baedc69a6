"""Merging an adapter into its base, with proof that the merged model answers as the adapter did."""

from .merge import MergeBase, merge

__all__ = ["MergeBase", "merge"]
