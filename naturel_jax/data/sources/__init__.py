"""Tables that can be trained on by name: one file for each kind."""
