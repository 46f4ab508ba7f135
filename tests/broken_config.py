"""A config file that raises, as users' do."""


def get_config():
    return {}["nothing"]
