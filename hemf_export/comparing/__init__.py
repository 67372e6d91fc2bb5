"""Networks compared on one data set: metrics, size, latency side by side, and which differ by more than chance."""
