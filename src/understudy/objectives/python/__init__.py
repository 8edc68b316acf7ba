"""An objective of your own, from Python."""
