"""Words that all folders share: errors, records, recipes. No files, no network, no torch."""
