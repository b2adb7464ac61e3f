"""What `debug=overfit|profile|nan` adds to a training."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from detr import distributed
from detr.errors import UserError
from detr.evaluation.names import LOSS
from detr.files import write_atomically
from detr.structures import Losses
from detr.tracking.words import count
from detr.training.callbacks import Callback, Ongoing

log = logging.getLogger(__name__)

PART = "part: "  # before the name of a range
# What the profiler calls what no part of ours surrounds.
THEIRS = {
    "data": "enumerate(DataLoader)#",
    "backward": "autograd::engine::evaluate_function: ",
    "optimizer": "Optimizer.step#",
}
FELL = 0.5  # of the first loss: by less the batch is not learned


class Overfit(Callback):
    """Says at the end of a run on one batch whether its loss fell.

    Args:
        fell: to which part of the loss of the first step it has to fall.
    """

    def __init__(self, *, fell: float = FELL) -> None:
        self.fell = fell
        self.losses: list[float] = []

    def on_epoch_end(self, trainer: Ongoing, row: Mapping[str, float]) -> None:
        if row:
            self.losses.append(row[f"train/{LOSS}"])

    def on_fit_end(self, trainer: Ongoing) -> None:
        if len(self.losses) < 2:
            return
        first, last = self.losses[0], self.losses[-1]
        said = f"the loss of one batch went from {first:.3f} to {last:.3f} in {count(trainer.progress.step, 'step')}"
        if last <= self.fell * first:
            log.info("%s: this detector learns", said)
        else:
            log.warning(
                "%s, and not below %g × the first: more steps (trainer.max_steps) or another optimizer.lr may do it; "
                "else something is wrong",
                *(said, self.fell),
            )


class Profile(Callback):
    """Measures where the time of some steps goes, by part, and writes a trace.

    Args:
        warmup: steps before those that count.
        steps: that are measured.

    Raises:
        ValueError: no step to measure, or a negative number.
    """

    def __init__(self, *, warmup: int = 2, steps: int = 3) -> None:
        if warmup < 0 or steps < 1:
            raise ValueError(f"warmup, steps: expected at least 0 and 1, got {warmup} and {steps}")
        self.warmup, self.steps = warmup, steps
        self.done = 0  # steps of this process
        self.started = 0.0
        self.profiler: profile | None = None
        self.hooks: list[Any] = []

    def on_fit_start(self, trainer: Ongoing) -> None:
        if self.warmup == 0:
            self.begin(trainer)

    def on_step_end(self, trainer: Ongoing) -> None:
        self.done += 1
        if self.done == self.warmup:
            self.begin(trainer)
        elif self.done == self.warmup + self.steps:
            self.end(trainer)

    def on_fit_end(self, trainer: Ongoing) -> None:
        if self.done < self.warmup + self.steps:
            log.warning("the run has no %d steps to be measured after %d others", self.steps, self.warmup)
        if self.profiler is not None:
            self.end(trainer)

    def begin(self, trainer: Ongoing) -> None:
        """Start to measure; the first process does."""
        if not distributed.is_main():
            return
        for name, module in {**dict(trainer.model.named_children()), "criterion": trainer.criterion}.items():
            self.hooks += surrounded(module, f"{PART}{name}")
        cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self.profiler = profile(activities=[ProfilerActivity.CPU, *cuda])
        self.profiler.start()
        self.started = time.perf_counter()

    def end(self, trainer: Ongoing) -> None:
        """Write trace and table, and say what is in it."""
        if self.profiler is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        steps = self.done - self.warmup
        whole = 1e3 * (time.perf_counter() - self.started) / steps
        self.profiler.stop()
        for hook in self.hooks:
            hook.remove()
        folder = trainer.folder.path / "profile"
        folder.mkdir(exist_ok=True)
        table = by_part(self.profiler.key_averages(), steps, whole)
        write_atomically(folder / "parts.txt", "\n".join(table) + "\n")
        self.profiler.export_chrome_trace(str(folder / "trace.json.gz"))
        self.profiler = None
        for line in table:
            log.info(line)
        log.info("trace: %s, for ui.perfetto.dev or chrome://tracing", folder / "trace.json.gz")


def surrounded(module: nn.Module, name: str) -> list[Any]:
    """Make every forward pass of a module a range of the profiler's, and return what takes the hooks away again."""
    ranges: list[record_function] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        ranges.append(record_function(name))
        ranges[-1].__enter__()

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def by_part(events: Any, steps: int, whole: float) -> list[str]:
    """Return a table of milliseconds a step by part, the costliest parts of the forward pass first.

    Args:
        events: averages of the profiler's.
        steps: that were measured.
        whole: milliseconds of one of them.
    """
    device = torch.cuda.is_available()
    host: dict[str, float] = {}
    kernels: dict[str, float] = {}
    for event in events:
        named = [event.key.removeprefix(PART)] if event.key.startswith(PART) else []
        for name in named or [name for name, prefix in THEIRS.items() if event.key.startswith(prefix)]:
            host[name] = host.get(name, 0.0) + event.cpu_time_total / 1e3 / steps
            kernels[name] = kernels.get(name, 0.0) + event.device_time_total / 1e3 / steps
    forward = sorted(host.keys() - THEIRS.keys(), key=lambda name: -host[name])
    order = [name for name in ("data", *forward, "backward", "optimizer") if name in host]
    lines = [f"{'part':<16}{'ms a step':>12}{'of the step':>13}" + (f"{'on the GPU':>12}" if device else "")]
    for name in order:
        line = f"{name:<16}{host[name]:>12.1f}{host[name] / whole:>13.0%}"
        lines.append(line + (f"{kernels[name]:>12.1f}" if device else ""))
    return [*lines, f"{'whole step':<16}{whole:>12.1f}"]


class Finite(Callback):
    """Ends the run at the first output of a module, or the first gradient, that is not finite."""

    def on_fit_start(self, trainer: Ongoing) -> None:
        scaled = trainer.scaler.is_enabled()
        log.info(
            "every module's output%s is looked at, which takes its time",
            "" if scaled else " and every gradient",  # fp16's overflow by design: such a step is left out
        )
        backward = Backward(trainer)
        for root, whole in {"model": trainer.model, "loss": trainer.criterion}.items():
            for name, module in whole.named_modules():
                full = ".".join(filter(None, (root, name)))
                module.register_forward_hook(finite_or_raise(full, trainer))
                if not scaled:
                    module.register_forward_hook(functools.partial(backward.watch, full))
        trainer.model.register_forward_pre_hook(lambda module, inputs: backward.seen.clear())


class Backward:
    """Watches the operations of a backward pass, each under the name of the innermost module that it is of."""

    def __init__(self, trainer: Ongoing) -> None:
        self.trainer = trainer
        self.seen: set[Any] = set()  # operations of this forward pass, which are no other's as long as they are here

    def watch(self, name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        """Watch what led to a module's outputs; it comes after those inside of it, and before those that it feeds."""
        left = [tensor.grad_fn for tensor in tensors(outputs) if tensor.grad_fn is not None]
        while left:
            operation: Any = left.pop()
            if operation in self.seen or operation.name().endswith("AccumulateGrad"):
                continue
            self.seen.add(operation)
            operation.register_hook(
                functools.partial(self.check, f"{name} ({type(module).__name__})", operation.name())
            )
            left += [each for each, _ in operation.next_functions if each is not None]

    def check(self, name: str, operation: str, made: Any, given: Any) -> None:
        """Raise UserError where an operation makes gradients that are not finite of such that are."""
        wrong = [tensor for tensor in tensors(made) if not tensor.isfinite().all()]
        if not wrong or not all(tensor.isfinite().all() for tensor in tensors(given)):
            return
        number, size = sum(int((~each.isfinite()).sum()) for each in wrong), sum(each.numel() for each in wrong)
        raise UserError(
            f"{name} has the first gradient that is not finite, of its {operation.removesuffix('0')}, in step "
            f"{self.trainer.progress.step + 1}: {number} of {size} values; its output is finite: look for a root, a "
            "logarithm or a division at 0"
        )


def finite_or_raise(name: str, trainer: Ongoing) -> Callable[[nn.Module, Any, Any], None]:
    """Return a hook that raises UserError if an output is not finite. It sees a module after those inside of it."""

    def check(module: nn.Module, inputs: Any, outputs: Any) -> None:
        wrong = [tensor for tensor in tensors(outputs) if not tensor.isfinite().all()]
        if not wrong:
            return
        number, size = sum(int((~each.isfinite()).sum()) for each in wrong), sum(each.numel() for each in wrong)
        cause = "its inputs and weights are finite"
        if not all(each.isfinite().all() for each in module.parameters()):
            cause = "its weights are not finite: the step before went wrong, try a lower optimizer.lr"
        elif not all(each.isfinite().all() for each in tensors(inputs)):
            cause = "its inputs are not finite either: they are made by what calls it"
        raise UserError(
            f"{name} ({type(module).__name__}) is the first module with an output that is not finite, in step "
            f"{trainer.progress.step + 1}: {number} of {size} values; {cause}"
        )

    return check


def tensors(found: Any) -> Iterator[Tensor]:
    """Yield the tensors of floating point in what a module takes or gives, except metrics that nothing learns from."""
    if isinstance(found, Tensor):
        if found.is_floating_point():
            yield found
    elif isinstance(found, Mapping):
        for each in found.values():
            yield from tensors(each)
    elif isinstance(found, list | tuple):
        for each in found:
            yield from tensors(each)
    elif is_dataclass(found):
        for field in fields(found):
            if not (isinstance(found, Losses) and field.name == "metrics"):
                yield from tensors(getattr(found, field.name))
