"""Work that needs torch or seconds of computing, done in a child process for whoever must stay light and awake.

`python -m qlora_tools.worker` reads one JSON line from its stdin, `{"task": NAME, "arguments": {...}}`, and writes JSON lines
to its stdout: events (`{"event": {...}}`), then one of `{"result": ...}` and `{"error": {...}}`. It ends when stdin closes.

Answering is apart: `warm.WarmWorker` asks a process that keeps its model loaded (`keeping`) between requests.
"""
