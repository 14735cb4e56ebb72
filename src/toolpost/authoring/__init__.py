"""Turns the three ways of writing a tool into definitions."""
