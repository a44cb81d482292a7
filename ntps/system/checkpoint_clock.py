"""When work that can go on after a kill writes a checkpoint: once a minute, and writing takes a twentieth of the time at most."""

import time

SECONDS = 60.0
WORK = 20.0  # times as long as the last checkpoint took to write


class CheckpointClock:
    """Counts from where it is made, and from each checkpoint."""

    def __init__(self) -> None:
        self.saved, self.pause = time.monotonic(), 0.0

    def due(self) -> bool:
        return time.monotonic() - self.saved >= max(SECONDS, self.pause)

    def wrote(self, began: float) -> None:
        """A checkpoint whose writing began then (time.monotonic) is on the disk."""
        self.saved = time.monotonic()
        self.pause = WORK * (self.saved - began)
