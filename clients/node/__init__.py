"""A node: one process with one model, its cameras, and the ways devices and people reach it."""
