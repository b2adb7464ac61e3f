"""Who ends a run: W&B, or somebody else with the same signal."""

from __future__ import annotations

import os
from typing import Any

PATIENCE = 10.0  # seconds for W&B's answer, out of the thirty that its agent waits before it kills


def under_agent() -> bool:
    """Return whether a W&B agent runs this process: it then says which run it is."""
    return "WANDB_SWEEP_ID" in os.environ


def asked_to_stop(run: Any) -> bool:
    """Ask W&B whether it wants an online run to end: a sweep's Hyperband, or its page.

    wandb asks the same every 15 seconds; its agent's signal may come before that, and without a reason.
    """
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    question = messages.Record(request=messages.Request(stop_status=messages.StopStatusRequest()))
    answer = run._interface._deliver(question).wait_or(timeout=PATIENCE)
    return bool(answer.response.stop_status_response.run_should_stop)
