"""How good the answers are: ask a model about a set of films, and score what it says beside what needs no model."""
