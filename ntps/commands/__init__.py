"""Commands run as python -m ntps.NAME."""
