"""One module per command: `run` takes its arguments and returns the exit status."""
