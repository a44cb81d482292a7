"""The project's figures and the summary of a results folder."""
