"""``bench``: how fast an exported student is, beside other ways to serve the same backbone."""
