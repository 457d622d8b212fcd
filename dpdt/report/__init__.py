"""The report: what the run folders say, as one HTML page, CSV, LaTeX, PNG, SVG and PDF."""
