"""Why a detector's numbers are as they are: errors by kind, thresholds, calibration, the images behind them."""
