"""Hydra's door: composing, checking and building configurations. Nothing behind it knows Hydra.

It imports neither torch nor the parts that configurations name until one of them is checked or built, so that
`--help`, `--cfg job` and a typo are answered at once.
"""

from detr.config.build import build, build_a
from detr.config.check import check
from detr.config.compose import compose
from detr.config.containers import Config, resolved, unresolved
from detr.config.override import override

__all__ = ["Config", "build", "build_a", "check", "compose", "override", "resolved", "unresolved"]
