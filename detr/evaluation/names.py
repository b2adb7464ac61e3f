"""Names of metrics that rows, tables and comparisons share; nothing heavy is imported here."""

LOSS = "loss"  # the one metric of a validation that is better when lower
UNDEFINED = -1.0  # COCO's mark for what has no ground truth. NaN would not be JSON.
