"""Data sets in COCO's panoptic format."""
