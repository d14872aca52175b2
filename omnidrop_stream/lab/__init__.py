"""What trains and measures; each a plain function behind a command."""
