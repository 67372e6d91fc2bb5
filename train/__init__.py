"""Images and labels → checkpoint. Reads class folders, trains with AMP on a GPU, keeps what resuming needs."""
