"""Reads what wandb wrote to an offline run's `.wandb` file, without wandb's own reader (which moves about).

The format is LevelDB's log: after 7 bytes of header, blocks of 32 KiB with chunks of checksum (4 bytes), length (2),
type (1: whole, 2: first, 3: middle, 4: last) and data. A record is a protobuf message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32768
CHUNK_HEADER = 7
FILE_HEADER = 7


@dataclass
class RecordedRun:
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)  # metric, or its glob → the metric that is its axis
    artifacts: list[Any] = field(default_factory=list)
    logs: str = ""  # of the Logs tab
    preempting: bool = False
    exit_code: int | None = None


def read_run(directory: Path) -> RecordedRun:
    """The run in a folder `offline-run-…`; call `wandb.teardown()` before."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = directory.glob("run-*.wandb")
    recorded = RecordedRun()
    for data in _records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        _take(record, recorded)
    return recorded


def _take(record: Any, recorded: RecordedRun) -> None:
    kind = record.WhichOneof("record_type")
    content = getattr(record, kind)
    if kind == "run":
        recorded.run = content
        _merge(_plain(content.config.update), recorded.config)
    elif kind == "config":
        _merge(_plain(content.update), recorded.config)
    elif kind == "history":
        recorded.history.append(_plain(content.item))
    elif kind == "summary":
        recorded.summary.update(_plain(content.update))
    elif kind == "metric":
        recorded.axes[content.name or content.glob_name] = content.step_metric
    elif kind == "request" and content.WhichOneof("request_type") == "log_artifact":
        recorded.artifacts.append(content.log_artifact.artifact)
    elif kind == "artifact":
        recorded.artifacts.append(content)
    elif kind == "output_logger":
        recorded.logs += content.line
    elif kind == "preempting":
        recorded.preempting = True
    elif kind == "exit":
        recorded.exit_code = content.exit_code


def _merge(update: dict[str, Any], config: dict[str, Any]) -> None:
    """As wandb does: a section that is written again keeps what others wrote into it."""
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _merge(value, config[key])
        else:
            config[key] = value


def _plain(items: Any) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for item in items:
        *path, name = item.nested_key or [item.key]
        inner = content
        for part in path:
            inner = inner.setdefault(part, {})
        inner[name] = json.loads(item.value_json)
    return content


def _records(content: bytes) -> Iterator[bytes]:
    assert content[:4] == b":W&B", content[:4]
    position, record = FILE_HEADER, b""
    while position + CHUNK_HEADER <= len(content):
        left = BLOCK - position % BLOCK
        if left < CHUNK_HEADER:
            position += left
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        start = position + CHUNK_HEADER
        position = start + length
        if kind == 0:  # padding
            continue
        record += content[start:position]
        if kind in (1, 4):
            yield record
            record = b""
