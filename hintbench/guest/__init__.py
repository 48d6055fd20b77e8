"""The guest: what a strategy sees and holds of it, how it boots, and whether it is in order."""
