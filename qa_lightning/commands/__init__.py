"""One module a command that needs no Lightning: `run` takes its arguments."""
