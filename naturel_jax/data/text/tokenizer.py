"""Tokenizers trained on a dataset's captions, with the conventions of a model family."""

import io
import json
from collections.abc import Callable, Iterable

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from naturel_jax.models.families import FAMILIES, TokenizerConventions


def train_tokenizer(family: str, captions: Iterable[str], vocab: int, context: int) -> str:
    """Trains a tokenizer of at most ``vocab`` tokens for ``family`` (a key of ``FAMILIES``) and returns its JSON. The
    same captions always give the same tokenizer.

    CLIP: byte-level BPE with ``</w>``, lowercased, ids 0 and 1 are the start and end tokens. SigLIP: unigram,
    lowercased without punctuation, id 1 is the end token. Both pad with the end token.
    """
    conventions = FAMILIES[family].tokenizer
    tok = TRAINERS[conventions.trainer](captions, vocab, conventions)
    return padded(templated(tok, conventions.template), context, conventions.ends[0]).to_str()


def padded(tok: tokenizers.Tokenizer, context: int, pad: str, side: str = "right") -> tokenizers.Tokenizer:
    """Makes ``tok`` truncate and pad every text to ``context`` tokens, and returns it."""
    tok.enable_truncation(context)
    tok.enable_padding(pad_id=tok.token_to_id(pad), pad_token=pad, length=context, direction=side)
    return tok


def templated(tok: tokenizers.Tokenizer, template: str) -> tokenizers.Tokenizer:
    """Makes ``tok`` add the special tokens of ``template`` to every text (``$A``), and returns it."""
    specials = [(token, tok.token_to_id(token)) for token in template.split() if token != "$A"]
    tok.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    return tok


def clip_tokenizer(model: models.BPE) -> tokenizers.Tokenizer:
    """CLIP's pipeline around a byte-level BPE whose words end in ``</w>``, as transformers' ``CLIPTokenizer`` builds
    it."""
    tok = tokenizers.Tokenizer(model)
    tok.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    split = pre_tokenizers.Split(tokenizers.Regex(words), behavior="removed", invert=True)
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    return tok


def _train_bpe(captions: Iterable[str], vocab: int, conventions: TokenizerConventions) -> tokenizers.Tokenizer:
    tok = clip_tokenizer(models.BPE(unk_token=conventions.unknown, end_of_word_suffix="</w>"))
    captions = [tok.normalizer.normalize_str(caption) for caption in captions]
    words = {word for caption in captions for word, _ in tok.pre_tokenizer.pre_tokenize_str(caption)}
    # The library assigns ids to word-final letters in the order of a randomly seeded hash, and breaks ties between
    # merges by id. Listed as special tokens, they always get the same ids.
    last_letters = sorted({word[-1] + "</w>" for word in words})
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[*conventions.specials, *last_letters],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tok.train_from_iterator(captions, trainer)
    state = json.loads(tok.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in conventions.specials]
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def _train_unigram(captions: Iterable[str], vocab: int, conventions: TokenizerConventions) -> tokenizers.Tokenizer:
    tok = tokenizers.Tokenizer(models.Unigram())
    clean = normalizers.Replace(tokenizers.Regex(r"[!-/:-@\[-`{-~]"), "")
    tok.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), clean, normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    # Trained with sentencepiece, as SigLIP's own was: tokenizers' unigram trainer gives different pieces each time.
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=map(tok.normalizer.normalize_str, captions),
        model_writer=trained,
        vocab_size=vocab,
        hard_vocab_limit=False,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    scores = [(pieces.id_to_piece(n), pieces.get_score(n)) for n in range(pieces.vocab_size())]
    tok.model = models.Unigram(scores, unk_id=2)
    tok.add_special_tokens([conventions.pad, conventions.ends[0], conventions.unknown])
    return tok


TRAINERS: dict[str, Callable[[Iterable[str], int, TokenizerConventions], tokenizers.Tokenizer]] = {
    "bpe": _train_bpe,
    "unigram": _train_unigram,
}
