"""When work that can go on after a kill writes a checkpoint: once a minute, or, where writing would take more than a twentieth of the
time, less often, but once in ten minutes."""

import time

SECONDS = 60.0
WORK, MOST = 20.0, 600.0  # times as long as the last checkpoint took to write; seconds


class CheckpointClock:
    """Counts from where it is made, and from each checkpoint."""

    def __init__(self) -> None:
        self.saved, self.pause = time.monotonic(), 0.0

    def due(self) -> bool:
        return time.monotonic() - self.saved >= max(SECONDS, self.pause)

    def wrote(self, began: float) -> None:
        """A checkpoint whose writing began then (time.monotonic) is on the disk."""
        self.saved = time.monotonic()
        self.pause = min(
            WORK * (self.saved - began), MOST
        )  # a process that was stopped has not written all the time
