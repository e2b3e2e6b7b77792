"""Encoders of sparse autoencoders and transcoders, read from the files of the libraries that train them."""
