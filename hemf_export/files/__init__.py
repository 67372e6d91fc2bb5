"""Files as every room writes and reads them: errors, atomic writes, manifests, locks, child processes."""
