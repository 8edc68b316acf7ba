"""Rewards: what else but a discriminator may score finished clips; a folder for every kind."""
