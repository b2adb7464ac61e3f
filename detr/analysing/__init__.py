"""`detr analyse`: the error report of a detector on a split, as a page and as numbers."""
