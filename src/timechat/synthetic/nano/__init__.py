"""How the built-in nano model is trained: single frames first, then written films, then films."""
