"""What the scripts share: flags, experiment files, the loop over pairs."""
