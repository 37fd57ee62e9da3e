"""The report of an output folder: what is in it, collected as plain data, and a page that shows it."""
