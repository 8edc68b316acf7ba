"""A folder of clips as teacher."""
