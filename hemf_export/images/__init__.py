"""Images: folders and lists of them, decoding, and the preprocessing that takes them to a network's input."""
