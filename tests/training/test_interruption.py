"""Signals: noted instead of obeyed, and kept from the workers of a data loader."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from detr.data.workers import shield, shielding
from detr.errors import Interrupted
from detr.training.interruption import Requests, requeue


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_noted_and_then_raised(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Requests() as requests:
        requests.check(requests.received)
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as error:
            requests.check(requests.received)
    assert error.value.status == 128 + number
    assert signal.getsignal(number) == before


def test_the_second_ctrl_c_is_obeyed() -> None:
    with Requests():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_of_another_process_counts() -> None:
    """Sums over processes, of which one was asked."""
    with pytest.raises(Interrupted, match="SIGUSR1"):
        Requests().check([0.0, 1.0, 0.0])


def test_workers_survive_signals_of_others_and_obey_their_parent() -> None:
    loader = DataLoader(range(1000), num_workers=1, worker_init_fn=shield, prefetch_factor=1)  # type: ignore[arg-type]
    with shielding():
        batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    stranger = os.fork()
    if stranger == 0:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(worker.pid, number)
        os._exit(0)
    os.waitpid(stranger, 0)
    assert [int(next(batches)) for _ in range(20)] == list(range(1, 21))
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_requeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Outside of Slurm nothing happens; a command that fails is a warning."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    requeue()
    assert caplog.text == ""
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho no such job >&2\nexit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    requeue()
    assert "job 4711 is not requeued: no such job" in caplog.text
