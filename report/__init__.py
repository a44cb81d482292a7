"""The reproduction report, from the tables of a results folder."""
