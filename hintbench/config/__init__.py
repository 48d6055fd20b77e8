"""Configuration: the guest, its host, what steps cost, and which simulations to run."""
