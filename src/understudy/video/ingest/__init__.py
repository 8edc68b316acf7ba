"""Video files of other people: probed and decoded in a guarded process, whatever codec, rate, size or damage they have."""
