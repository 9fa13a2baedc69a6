"""Scripts that run without this package: rendering of `templates/`, and what each of their lines is there for."""
