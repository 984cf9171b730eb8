"""Images: made from a finished tree, described, kept in the catalog, written in other formats."""
