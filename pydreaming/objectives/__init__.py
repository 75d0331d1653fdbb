"""Training objectives behind one interface, one file each."""
