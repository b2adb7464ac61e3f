"""From predictions to detections to numbers."""
