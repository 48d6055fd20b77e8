"""Coroutines in virtual time: how they are started, what they may do and what they wait for."""
