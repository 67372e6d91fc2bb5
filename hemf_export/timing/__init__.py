"""Timing of runners side by side: what is timed, how, and with which interval."""
