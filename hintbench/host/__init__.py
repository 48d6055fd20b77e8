"""The host: how reports get to it, how it takes memory back, and how the guest hears of it."""
