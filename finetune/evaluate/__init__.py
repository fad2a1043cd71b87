"""How good the network is: the one no-grad loop, the metrics and their intervals."""
