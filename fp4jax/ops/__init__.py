"""Products under a recipe: which of six operands is quantized, and the GEMMs that take them."""
