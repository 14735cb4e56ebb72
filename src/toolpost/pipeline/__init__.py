"""Wraps a runner in stages, once per tool."""
