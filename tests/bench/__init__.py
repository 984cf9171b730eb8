"""`make bench`: measured times beside their targets. Nothing here is asserted: machines differ."""
