"""The doors, and the wire formats they share."""
