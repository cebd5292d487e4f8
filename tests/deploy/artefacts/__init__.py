"""What is built and released: images, wheels, the files of a release."""
