"""What the machine gives: files written whole with provenance, processes of a launch, progress bars."""
