"""The demonstration: a small dataset that ships with the package, and its generator."""
