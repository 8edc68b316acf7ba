"""Finished clips: files in and out, decoded under limits by a process of their own, brought to one form."""
