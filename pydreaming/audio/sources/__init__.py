"""One module per on-disk layout, each a stream of AudioItem; and the catalogue that orders them."""
