"""Basics for all packages: errors, atomic writes, manifests, locks, progress, child processes."""
