"""From a run that breaks a rule to a small story, told and kept in a file."""
