"""The workloads that come with hintbench, one plugin a file."""
