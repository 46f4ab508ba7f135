"""Compositional fine-tuning of vision-language models in JAX.

    import naturel_jax
    model = naturel_jax.load("hf:openai/clip-vit-base-patch32")
    cosines = model.score(["mug.jpg"], ["a mug in grass", "grass in a mug"])

``EmbeddingModel``, ``load`` and ``evaluate`` are the public API (docs/api.md). Importing this package loads neither JAX
nor transformers; the first use of one of them does.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from naturel_jax.evaluators.embedding_model import EmbeddingModel, evaluate, load

__version__ = "0.1.0"
__all__ = ["EmbeddingModel", "__version__", "evaluate", "load"]


def __getattr__(name: str) -> object:
    if name == "evaluate":  # also a command's module, which is callable so that both uses work
        return importlib.import_module("naturel_jax.evaluate")
    if name in __all__:
        return getattr(importlib.import_module("naturel_jax.evaluators.embedding_model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
