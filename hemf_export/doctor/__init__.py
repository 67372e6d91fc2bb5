"""What this machine has and lacks for each command."""
