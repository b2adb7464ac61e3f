"""Writing data sets in COCO's, YOLO's and Pascal VOC's format."""
