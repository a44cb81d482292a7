"""Labelled texts: a description becomes rows, classes and splits."""
