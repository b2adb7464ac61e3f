"""Datasets, transforms and batches."""
