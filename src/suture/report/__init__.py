"""One self-contained HTML file that shows a folder of artifacts."""
