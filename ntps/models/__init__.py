"""Language models: a description becomes a model and its tokenizer, nothing pickled, remote code only on request and of one commit."""
