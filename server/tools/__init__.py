"""The tools, by subject. Each is a method of a few lines: check paths, call one function, put the answer in words."""
