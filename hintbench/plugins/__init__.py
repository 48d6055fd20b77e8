"""Plugins: how they are found, named and given parameters, and how their hooks are bound."""
