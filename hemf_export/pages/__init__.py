"""Self-contained HTML pages and how they show numbers."""
