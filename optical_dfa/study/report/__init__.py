"""The report of a study: what was found in words, figures and tables, as one HTML file."""
