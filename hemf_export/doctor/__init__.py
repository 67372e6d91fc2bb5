"""Check what each command needs on this machine."""
