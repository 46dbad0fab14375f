"""Reports that people read: one page without network, Markdown, or JSON."""
