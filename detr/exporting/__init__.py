"""Detectors as files that run without this project: ONNX, OpenVINO, torch.export."""
