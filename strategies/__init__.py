"""Strategies that come with hintbench: one file each, a plugin like any third party's."""
