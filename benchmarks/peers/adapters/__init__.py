"""One module per system; each has a class `Peer`."""
