"""`wanbatch compare`: the pictures of two output folders, id by id, and what changed between them."""
