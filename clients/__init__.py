"""The faces of OmniDrop Stream. They never import torch."""
