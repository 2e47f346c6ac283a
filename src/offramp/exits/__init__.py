"""Exit policies, calibration and exact thresholds, in NumPy."""
