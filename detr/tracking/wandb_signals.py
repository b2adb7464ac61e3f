"""Signals that end a run: W&B sends them, or somebody else."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from detr.tracking.wandb_environment import under_agent

# Seconds until wandb has surely heard from its server, which it asks every 15; the agent kills after 30.
PATIENCE = 20.0


def ended_by_wandb(run: Any, number: int, parent: int) -> bool:
    """Return whether a signal comes from W&B: a sweep's Hyperband, or the button on the run's page.

    Its agent sends SIGTERM, as a scheduler does that needs the machine. But a scheduler ends the agent, too, and W&B
    knows of what it does itself; wandb hears of it a little later than the agent. SIGUSR1 is never W&B's.

    Args:
        run: of wandb, online.
        number: of the signal.
        parent: the process that started this one, which may be the agent.
    """
    if number == signal.SIGUSR1:
        return False
    deadline = time.monotonic() + (PATIENCE if under_agent() and number == signal.SIGTERM else 0.0)
    while not stop_requested(run):
        if time.monotonic() >= deadline or os.getppid() != parent:
            return False
        time.sleep(0.5)
    return True


def stop_requested(run: Any) -> bool:
    """Ask wandb whether its server wants the run to end, as it does itself every 15 seconds."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    question = messages.Record(request=messages.Request(stop_status=messages.StopStatusRequest()))
    answer = run._interface._deliver(question).wait_or(timeout=PATIENCE)
    return bool(answer.response.stop_status_response.run_should_stop)
