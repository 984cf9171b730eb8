"""What people write in recipes: kinds of value, sections, parents and fragments, templates and conditions."""
