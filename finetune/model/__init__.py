"""The network: backbones, heads, layer groups, the freeze plan, the cut at the freeze line, the bundle."""
