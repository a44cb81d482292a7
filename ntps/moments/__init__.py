"""Texts through a model: one forward pass leaves per-layer sums, the moments."""
