"""Claims a scorer's name that another package has too."""


class Clash:
    """Never made."""
