"""Fine-tunes CLIP B/32 on your own data: ``--config finetune:csv:photos.csv``.

The argument is a source (docs/data.md), by default ``folder:photos``. Each image is trained with one of its true
captions, and an order shuffle of it as a hard negative, with NegCLIP's loss. Other fields of the config can be set on
the command line.
"""

from ml_collections import ConfigDict

from naturel_jax import config as c


def get_config(source: str = "") -> ConfigDict:
    config = c.base()
    config.name = "fine-tuned"
    config.init = "hf:openai/clip-vit-base-patch32"
    config.data.mixture.main = c.part(source or "folder:photos", "order_shuffles")
    config.data.batch_size = 64
    config.duration = "5 epochs"
    config.optim.update({"lr": 1e-6, "warmup": "5%"})
    config.eval.benchmarks, config.eval.during = (), {}
    return config
