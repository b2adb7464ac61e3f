"""Weights of a detector: checkpoints of ours, files of others, and the way from one to the other."""
