"""What to do: the recipe, its keys, its defaults and its reading."""
