"""What is run: a schedule as data, and families of them that are drawn from a seed."""
