"""Which model for my texts: candidates measured, ranked, and the page that says it."""
