"""The teachers of a run: frozen models, and their precomputed outputs."""
