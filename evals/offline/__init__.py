"""Scripted agents work on the real server, with faults planted that only the server's own words can mend.

`python -m evals.offline` runs the tasks. An agent sees what a model would see: the list of tools, texts, structured content
and errors. One policy (`agent.py`, `mending.py`) serves all tasks, so that what is measured is the messages.
"""
