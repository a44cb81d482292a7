"""What the scripts share: flags parsed (ntps/flags.py has them), experiment files, the loop over pairs, plans, job grids."""
