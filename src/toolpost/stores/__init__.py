"""Remembers: small atomic state, durable records, large blobs."""
