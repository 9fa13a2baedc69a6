"""Merging adapters into their base, with proof that the merged model answers as base and adapter did."""

from .merge import MergeBase, MergeDtype, check_merge, merge

__all__ = ["MergeBase", "MergeDtype", "check_merge", "merge"]
