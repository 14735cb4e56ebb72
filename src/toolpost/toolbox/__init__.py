"""Ready tools, written as a stranger would write them."""
