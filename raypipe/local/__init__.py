"""One process that does everything: the reference that the actors must agree with."""
