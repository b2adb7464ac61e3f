"""`detr monitor`: a local page of all runs below a folder, alive while they train."""
