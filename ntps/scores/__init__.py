"""Moments to scores: pure mathematics (torch, numpy, scipy)."""
