"""`tsembed browse`: results in a terminal, to look at, narrow down, open and pick from."""
