"""`snapstore demo`: one agent session in S3, from its first turn to its proven end.

- `runner`: the demo as a whole.
- `steps`: its seven steps, each of which proves what it says.
- `worker`: the agent's worker process.
- `lister`: what is in the bucket, by other code than snapstore's.
- `session`: the session that is shown.
- `target`: the bucket and the session that it works in.
- `output`: what is printed.
"""
