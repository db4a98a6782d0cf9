"""The routes, one file a subject; what they share is `Server`, which every request carries."""
