"""Images and labels → checkpoint. Reads class folders, trains with AMP on a GPU, keeps what resuming needs."""

import hemf  # noqa: F401 - turns off the telemetry of what is loaded later
