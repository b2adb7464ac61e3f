"""Backbones that are more than a library's network, a file each."""
