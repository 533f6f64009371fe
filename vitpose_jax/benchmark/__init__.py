"""Speed, measured side by side; see `__main__.py` for the command, `docs/performance.md` for what came out."""
