"""A trained model, a question, a context -> answers: from Python, in batches, over HTTP."""
