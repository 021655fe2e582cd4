"""Programs that make files of this repository from something more readable."""
