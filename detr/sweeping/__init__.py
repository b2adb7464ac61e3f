"""Sweeps: which jobs there are, what became of each, what to try next. Hydra's side is `detr.sweeping.sweeper`."""
