"""Black boxes: a prompt goes in, a finished clip comes out."""
