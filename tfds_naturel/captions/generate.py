"""More captions from a language model: an OpenAI-compatible endpoint or a local transformers model.

Whatever the model answers goes through the same checks as the bank; what fails is returned as a list of faults.
"""

import json
import urllib.request
from collections.abc import Callable

from tfds_naturel.captions import checks, parse
from tfds_naturel.schema import PAIRS, Caption, Triplet

Generator = Callable[[str], str]  # prompt -> answer

_PROMPT = """Write {count} pairs of English sentences of 4 to 20 words about a photo that shows: {triplet}.
The first sentence of a pair is true of the photo. The second is false of it and differs in as few words as possible:
swap the two things, or use the opposite relation or material. Name both things in every sentence. Vary word order.
Answer with a JSON list of [true sentence, false sentence] and nothing else."""

_MAX_ANSWER = 1 << 20  # bytes


def endpoint(url: str, model: str, key: str = "", timeout: float = 120) -> Generator:
    """A chat model behind ``url`` (up to and including ``/v1``). Raises OSError when it cannot be reached."""

    def ask(prompt: str) -> str:
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}]}).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", body, headers)
        with urllib.request.urlopen(request, timeout=timeout) as response:
            answer = json.loads(response.read(_MAX_ANSWER))
        try:
            return answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{url}: answered {str(answer)[:200]!r}, expected choices[0].message.content") from error

    return ask


def local(folder: str) -> Generator:
    """A transformers text-generation model in ``folder``."""
    from transformers import pipeline

    model = pipeline("text-generation", model=folder)
    return lambda prompt: model(prompt, max_new_tokens=400, return_full_text=False)[0]["generated_text"]


def pairs(triplet: Triplet, generator: Generator) -> tuple[list[tuple[Caption, Caption]], list[str]]:
    """(sound complex pairs, faults of the others) that ``generator`` wrote for ``triplet``.

    Raises ValueError when the answer is not a JSON list of pairs of strings.
    """
    answer = generator(_PROMPT.format(count=PAIRS - 1, triplet=" ".join(triplet)))
    try:
        rows = json.loads(answer[answer.index("[") : answer.rindex("]") + 1])
        texts = [(positive.strip(), negative.strip()) for positive, negative in rows]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{triplet}: the model answered {answer[:200]!r}, expected a JSON list of pairs") from error
    sound, faults = [], []
    for pair, (positive, negative) in enumerate(texts[: PAIRS - 1], 1):
        try:
            operation, claim = parse.operation(positive, negative, triplet)
        except ValueError as error:
            faults.append(f"{triplet} {negative!r}: {error}")
            continue
        shape = parse.shape(positive)
        written = (
            Caption(positive, "complex", "positive", pair, triplet, triplet, "", shape),
            Caption(negative, "complex", "negative", pair, triplet, claim, operation, shape),
        )
        found = checks.check({triplet: written})
        faults += found
        sound += [] if found else [written]
    return sound, faults
