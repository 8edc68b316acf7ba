"""Streaming server: one scheduler, a page for the browser, a WebSocket protocol."""
