"""How fast the models, the engines and the node are on this machine."""
