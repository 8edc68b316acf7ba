"""A workflow on a ComfyUI server of your own."""
