"""What a run is: its sections and fields, the kinds that fill them, and the files that they are read from."""
