"""Commands run as python -m ntps.NAME; plan and jobs are the --plan and the cluster jobs of the scripts."""
