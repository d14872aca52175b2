"""What touches the world: sources, capture, the model thread, sessions."""
