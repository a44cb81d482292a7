"""What the scripts share: parsing of flags (ntps/flags.py has them), experiment files, the loop over pairs."""
