"""The documents written from a spec: Markdown and pgTAP tests."""
