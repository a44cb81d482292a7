"""Language models: a description becomes a model and its tokenizer, nothing pickled, no remote code."""
