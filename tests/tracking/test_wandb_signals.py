"""Whose signal ends a run: W&B's, or a scheduler's."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from detr.tracking import wandb_signals


@pytest.mark.parametrize("answers", ["never", "late", "agent gone"])
def test_under_an_agent_it_waits_for_what_the_server_says(monkeypatch: pytest.MonkeyPatch, answers: str) -> None:
    """wandb hears of it later than the agent; a scheduler ends the agent, too, so nobody is waited for."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setattr(wandb_signals, "PATIENCE", 1.2)
    asked: list[float] = []

    def stop_requested(run: Any) -> bool:
        asked.append(time.monotonic())
        return answers == "late" and len(asked) == 3

    monkeypatch.setattr(wandb_signals, "stop_requested", stop_requested)
    parent = os.getppid() + (answers == "agent gone")
    assert wandb_signals.ended_by_wandb(None, signal.SIGTERM, parent) is (answers == "late")
    assert len(asked) == {"never": 4, "late": 3, "agent gone": 1}[answers]
    asked.clear()
    assert not wandb_signals.ended_by_wandb(None, signal.SIGUSR1, parent), "never W&B's"
    assert asked == []


def test_wandb_still_answers_the_question() -> None:
    """Its words for it are not public."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.interface.interface_shared import InterfaceShared

    messages: Any = wandb_internal_pb2
    assert messages.Record(request=messages.Request(stop_status=messages.StopStatusRequest())).request.stop_status
    assert callable(InterfaceShared._deliver)
