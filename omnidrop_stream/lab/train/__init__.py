"""The recipe of the embedded model: `python -m omnidrop_stream.lab.train RECIPE.yaml`."""
