"""A config file that raises, as users' files sometimes do."""


def get_config():
    return {}["nothing"]
