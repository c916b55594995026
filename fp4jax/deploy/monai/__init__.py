"""A network of MONAI's as a bundle of MONAI's: weights under its names, configurations, licence."""
