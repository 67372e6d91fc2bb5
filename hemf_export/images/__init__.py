"""Images: folders and lists, decoding, and preprocessing to a network's input."""
