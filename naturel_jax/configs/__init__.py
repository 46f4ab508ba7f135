"""One config for each row of the tables, found by name: ``--config siglip_tp``, or ``--config siglip_tp:scenes``.

A copy anywhere is found by its path, and may import these: ``from naturel_jax.configs import negclip``.
"""
