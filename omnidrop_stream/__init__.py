"""OmniDrop Stream: push chunks of a live stream, ask at any moment."""
