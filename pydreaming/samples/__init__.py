"""Audio that comes with the package: synthetic spoken digits, and the script that made them."""
