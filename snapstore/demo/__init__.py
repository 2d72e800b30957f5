"""`snapstore demo`: one agent session in S3, from its first turn to its proven end.

- `show`: the demo as a whole.
- `steps`: its seven steps, each of which proves what it says.
- `worker`: the agent's worker process.
- `witness`: what is in the bucket, by other code than snapstore's.
- `session`: the session that is shown.
- `place`: where all of it works.
- `screen`: what is printed.
"""
