"""Running one scenario: who is late, what goes wrong, how it ends, and what came of it."""
