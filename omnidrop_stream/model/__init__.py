"""The only place that knows transformers: checkpoints behind the `OmniModel` protocol."""
