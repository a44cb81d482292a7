"""Launches of several real processes, as torchrun starts them, but that nobody ends when one is lost."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch

import cache
import from_scratch
import linear_training
import lora_finetuning
from ntps.accuracies import finetuning
from ntps.commands import finetune_probe
from ntps.moments import resumable_pass
from ntps.moments.encoder import NotFinite
from ntps.run import cli
from ntps.system import checkpoint_clock, processes

SCRIPTS = {
    module.__name__: module
    for module in (cache, linear_training, lora_finetuning, from_scratch, finetune_probe)
}
CONTEXT = multiprocessing.get_context("forkserver")  # imports once, not once a process
CONTEXT.set_forkserver_preload(["tests.launch"])


def launch(
    count: int, commands: list[list[str]], folder: Path, trouble: Callable[[], None] | None = None
) -> list[tuple[int, str, str]]:
    """Run command lines, [script, *flags], in turn in `count` processes; each one's exit code, output and errors."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in commands]
    # one a command: none meets what another leaves behind
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    names = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
    started = []
    for rank in range(count):
        environment = {key: str(value) for key, value in (names | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        arguments = (commands, ports, environment, folder / f"process{rank}", trouble)
        started.append(CONTEXT.Process(target=_work, args=arguments))
        started[-1].start()
    for process in started:
        process.join(120 if process is started[0] else 30)
    for process in started:
        process.kill()
    texts = [
        [(folder / f"process{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(count)
    ]
    return [(process.exitcode, *text) for process, text in zip(started, texts)]


def _work(commands, ports, environment, output, trouble) -> None:
    os.environ.update(environment)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    if trouble:
        trouble()
    codes = []
    for port, (script, *flags) in zip(ports, commands):
        os.environ["MASTER_PORT"] = str(port)
        codes.append(cli.run(SCRIPTS[script].main, flags))
    sys.stdout.flush()
    sys.exit(max(codes))


def _before(batch: int, event: Callable[[], None]) -> None:
    """Let something happen to process 1 in its batch of this number."""
    inner, calls = resumable_pass.encode, [0]

    def encode(*arguments):
        for step in inner(*arguments):
            calls[0] += 1
            if processes.rank() == 1 and calls[0] == batch:
                event()
            yield step

    resumable_pass.encode = encode


def _raise(error: Exception) -> None:
    raise error


def killed() -> None:
    """Process 1 dies, after checkpoints at every meeting."""
    checkpoint_clock.SECONDS = 0.0
    _before(4, lambda: os.kill(os.getpid(), signal.SIGKILL))


def not_finite() -> None:
    _before(2, lambda: _raise(NotFinite(5, 2)))


def disk_full() -> None:
    resumable_pass.write_moments = lambda *_: _raise(OSError(28, "No space left on device"))


def training_killed() -> None:
    """Process 1 dies at the end of step 4 of a training, after checkpoints of every step."""

    class Killer(finetuning.Watcher):
        def on_step_end(self, args, state, control, **rest):
            super().on_step_end(args, state, control, **rest)
            if processes.rank() == 1 and state.global_step == 4:
                os.kill(os.getpid(), signal.SIGKILL)

    checkpoint_clock.SECONDS, finetuning.Watcher = 0.0, Killer


def silent() -> None:
    """Process 1 stops working but does not die."""
    processes.TIMEOUT = timedelta(seconds=8)
    _before(4, lambda: time.sleep(20))
