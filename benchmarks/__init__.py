"""What snapstore costs beside its peers. `run.py` is the entrance; `nox -s bench` runs it."""
