"""Scripts that make what lies in the repository: data, and pages of the documentation."""
