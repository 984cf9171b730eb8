"""What is inside an image: looked at, taken out, changed, and disks of others made images of the catalog."""
