"""A second model of the allocator and the per-CPU lists: obvious, slow, and no code of the core."""
