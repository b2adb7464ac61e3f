"""The training loop, and what a run needs to stop, go on and end."""
