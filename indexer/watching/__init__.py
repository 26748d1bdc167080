"""An index that follows its files: what changes on the disk starts a run."""
