"""The visit scheduler: chooses the origins to visit next and dispatches their visits."""
