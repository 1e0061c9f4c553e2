"""From a recipe to the parts of a run, and starting it."""
