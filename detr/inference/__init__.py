"""From weights to answers: a detector in Python, and `detr predict`."""
