"""How a picture becomes tokens: tiling, encoders, connectors."""
