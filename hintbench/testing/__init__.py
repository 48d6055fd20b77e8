"""Is a strategy right? Rules, a schedule explorer, faults, counterexamples, a pytest suite."""
