"""The server: answers over HTTP, and a page for people."""
