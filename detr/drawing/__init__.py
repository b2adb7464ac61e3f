"""Boxes, masks and segments on pictures."""
