"""Runs calls for doors: at once or accepted and written down first, watched, looked up, cancelled, told of."""
