"""`mini-mmeb`: a real set of many tasks in MMEB's layout, made of ordinary packages that anyone can fetch."""
