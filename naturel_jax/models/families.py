"""One row per family: everything that CLIP and SigLIP do differently, except for where a checkpoint keeps their tensors
(see the tables by family name in ``weights/{hf,openclip,big_vision}.py``).

CLIP: Radford et al., arXiv 2103.00020. SigLIP: Zhai et al., arXiv 2303.15343. SigLIP 2: arXiv 2502.14786.
"""

import dataclasses
from typing import Any, NotRequired, TypedDict

from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import ImageConfig, TextConfig, TwoTowerConfig

Channels = tuple[float, float, float]


class Pixels(TypedDict):
    """How an image becomes pixels: the fields of ``data.text.processor.Processor`` of the same names."""

    resize: str
    interpolation: str
    mean: Channels
    std: Channels
    centre: NotRequired[str]
    patch: NotRequired[int]
    max_patches: NotRequired[int]


@dataclasses.dataclass(frozen=True)
class TokenizerConventions:
    """How a family's texts are tokenized.

    ``ends``: possible names of the end token, one of which is in the vocabulary; tokenizers trained here use the first,
    also for padding. ``pad``: the padding token of published files that do not specify one. ``trainer``: a key of
    ``data.text.tokenizer.TRAINERS``. ``incomplete_files``: published tokenizer files leave lowercasing and end token
    to the caller. ``bundled_vocab``: size of the vocabulary that OpenCLIP ships for this family. ``hf_class``:
    transformers' class for a ``tokenizer.json``. ``model_inputs``: what a tokenizer returns for the model; without the
    mask the model attends to padding, as SigLIP does in training.
    """

    start: str | None
    ends: tuple[str, ...]
    pad: str
    unknown: str
    trainer: str
    incomplete_files: bool
    bundled_vocab: int | None
    hf_class: str
    model_inputs: tuple[str, ...]

    @property
    def specials(self) -> list[str]:
        """The start token, if there is one, and the end token."""
        return [token for token in (self.start, self.ends[0]) if token]

    @property
    def template(self) -> str:
        """The tokens of one text ``$A``, as ``tokenizers.processors.TemplateProcessing`` writes them."""
        return " ".join([*self.specials[:-1], "$A", self.specials[-1]])


@dataclasses.dataclass(frozen=True)
class Family:
    """One family. ``image`` and ``text``: the fields of ``ImageConfig`` and ``TextConfig`` that are not sizes. ``name``
    is also transformers' ``model_type``; ``hf_prefix`` is the prefix of its class names there
    (``CLIPModel``); ``openclip_class`` is OpenCLIP's model class. ``init_scale``, ``init_bias``, ``max_scale``,
    ``activation``, ``eps``, ``vocab`` and ``context`` are those of the published models, used as defaults."""

    name: str
    image: dict[str, Any]
    text: dict[str, Any]
    init_scale: float
    init_bias: float | None
    max_scale: float | None
    activation: str
    eps: float
    vocab: int
    context: int
    pixels: Pixels
    tokenizer: TokenizerConventions
    hf_prefix: str
    openclip_class: str

    def tower(
        self, width: int, depth: int, heads: int, mlp_dim: int | None = None, *, activation: str | None = None
    ) -> TransformerConfig:
        """The transformer of one tower; ``mlp_dim`` is four times the width by default."""
        mlp_dim = 4 * width if mlp_dim is None else mlp_dim
        return TransformerConfig(width, depth, heads, mlp_dim, activation or self.activation, self.eps)

    def config(
        self,
        *,
        size: int,
        patch: int,
        image: TransformerConfig,
        text: TransformerConfig,
        vocab: int | None = None,
        context: int | None = None,
        embed_dim: int | None = None,
        eos_id: int | None = None,
    ) -> TwoTowerConfig:
        """A model of this family. ``embed_dim`` is the image width by default, ``eos_id`` the largest id (for a
        family that pools at the end token). Raises ValueError for sizes that do not fit together."""
        vocab = self.vocab if vocab is None else vocab
        if self.text["pool"] == "eos" and eos_id is None:
            eos_id = vocab - 1
        return TwoTowerConfig(
            image=ImageConfig(size, patch, image, **self.image),
            text=TextConfig(vocab, self.context if context is None else context, text, **self.text, eos_id=eos_id),
            embed_dim=image.width if embed_dim is None else embed_dim,
            init_scale=self.init_scale,
            init_bias=self.init_bias,
            max_scale=self.max_scale,
        )


_ROWS = (
    Family(
        name="clip",
        image={"pool": "cls", "pre_norm": True, "patch_bias": False, "projection": True, "naflex": False},
        text={"causal": True, "pool": "eos", "projection_bias": False},
        init_scale=1 / 0.07,
        init_bias=None,
        max_scale=100.0,
        activation="quick_gelu",
        eps=1e-5,
        vocab=49408,
        context=77,
        pixels={
            "resize": "short",
            "interpolation": "bicubic",
            "mean": (0.48145466, 0.4578275, 0.40821073),
            "std": (0.26862954, 0.26130258, 0.27577711),
        },
        tokenizer=TokenizerConventions(
            start="<|startoftext|>",
            ends=("<|endoftext|>",),
            pad="<|endoftext|>",
            unknown="<|endoftext|>",
            trainer="bpe",
            incomplete_files=False,
            bundled_vocab=49408,
            hf_class="CLIPTokenizer",
            model_inputs=("input_ids", "attention_mask"),
        ),
        hf_prefix="CLIP",
        openclip_class="CLIP",
    ),
    Family(  # SigLIP 2's fixed-resolution models have the same structure
        name="siglip",
        image={"pool": "map", "pre_norm": False, "patch_bias": True, "projection": False, "naflex": False},
        text={"causal": False, "pool": "last", "projection_bias": True},
        init_scale=10.0,
        init_bias=-10.0,
        max_scale=None,
        activation="gelu_tanh",
        eps=1e-6,
        vocab=32000,
        context=64,
        pixels={"resize": "square", "interpolation": "bilinear", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        tokenizer=TokenizerConventions(
            start=None,
            ends=("</s>", "<eos>"),  # SigLIP's sentencepiece, SigLIP 2's Gemma
            pad="<pad>",
            unknown="<unk>",
            trainer="unigram",
            incomplete_files=True,
            bundled_vocab=None,
            hf_class="PreTrainedTokenizerFast",
            model_inputs=("input_ids",),
        ),
        hf_prefix="Siglip",
        openclip_class="CustomTextCLIP",
    ),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ROWS}
FAMILIES["siglip2"] = dataclasses.replace(  # NaFlex: SigLIP's parameters, for images of any aspect ratio
    FAMILIES["siglip"],
    name="siglip2",
    image=FAMILIES["siglip"].image | {"naflex": True},
    pixels={**FAMILIES["siglip"].pixels, "resize": "naflex", "patch": 16, "max_patches": 256},
    hf_prefix="Siglip2",
)


def family_of(config: TwoTowerConfig) -> Family:
    """The family whose towers ``config`` has. The logit bias does not matter: a CLIP fine-tuned with the sigmoid loss
    has one too. Raises ValueError if no family has these towers."""
    for family in FAMILIES.values():
        towers = ((config.image, family.image), (config.text, family.text))
        if all(getattr(tower, field) == value for tower, form in towers for field, value in form.items()):
            return family
    raise ValueError(f"no family ({', '.join(FAMILIES)}) has these towers: {config.image}, {config.text}")
