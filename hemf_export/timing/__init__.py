"""Timing of runners side by side: workloads, measurement, and prediction intervals."""
