"""Answers whether a value, a caller or an address may pass."""
