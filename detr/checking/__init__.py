"""`detr check`: mistakes in a data set, found before a training learns them."""
