"""Hard images of which the false captions of the images they were mined for are true (TripletCLIP, ConCLIP).

``config.data.mixture.PART.hard_captions`` 'exchanged' gives them these captions.
"""

import dataclasses

import jax

from naturel_jax.config.settings import one_of, setting
from naturel_jax.losses.objectives import softmax_loss
from naturel_jax.losses.parts import only
from naturel_jax.losses.terms.term import Embedded, Term


@dataclasses.dataclass(frozen=True)
class ExchangedImages(Term):
    """The softmax loss of the hard images, for which positives and negatives have changed places; 0 if a batch has no
    hard image."""

    form: str = setting(
        "both",
        "both: both directions, and the objective is without the hard images (TripletCLIP); image_to_text: that "
        "direction only, and they are negatives of every caption in the objective (ConCLIP)",
        one_of("both", "image_to_text"),
    )
    counting: str = setting(
        "published",
        "captions of other images that are true of a hard image: published: negatives; match_ignore: left out",
        one_of("published", "match_ignore"),
    )

    @property
    def drops_hard_images(self) -> bool:  # type: ignore[override]
        return self.form == "both"

    def __call__(self, z: Embedded) -> jax.Array:
        assert z.images.exchanged_I is not None  # config.load has refused other mixtures
        images = only(z.images, z.images.exchanged_I)
        return softmax_loss(
            z.zimg_ID,
            z.zcap_UD,
            z.scale,
            images,
            z.captions,
            counting=self.counting,
            layout=z.layout,
            to_images=self.drops_hard_images,
        )
