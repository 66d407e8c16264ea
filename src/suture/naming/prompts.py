"""What the labeler is asked, in words: for a name, and whether a marked token fits one.

1. Texts are shown in the small windows of a feature's examples, the token that counts between « and ».
2. A model with a chat template is asked in it; another one goes on with a page of such questions that begins with a
   worked example.
3. A name is what stands on the first line of the answer, without quotes and the point at its end.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from suture.lm.chat import asked
from suture.lm.load import LanguageModel

LONGEST_NAME = 80
"""Characters."""
TASK = "In each text one token is marked with « and ». Say in a few words what the marked tokens have in common."
WORKED = (
    (
        ("The cat sat on the« mat».", "They swam in the« lake» all day.", "Put it under the« bed»."),
        "places and furniture",
    ),
    (("He was so« glad» to see", "She« smiled» at the boy.", "They« laughed» and sang"), "joy"),
)
QUESTION = "In the text one token is marked with « and ». Does the marked token fit the description? Answer Yes or No."


def window(example: Mapping[str, Any], n_before: int, n_after: int) -> str:
    """An example's text around its own token, which is marked, on one line.  (1)

    >>> window({"sides": [{"tokens": ["a", " b", " c", " d"], "peak": 2}]}, 1, 1)
    ' b« c» d'
    """
    side = example["sides"][0]
    tokens, peak = side["tokens"], side["peak"]
    before, after = tokens[max(0, peak - n_before) : peak], tokens[peak + 1 : peak + 1 + n_after]
    return " ".join(f"{''.join(before)}«{tokens[peak]}»{''.join(after)}".split("\n"))


def name_prompt(lm: LanguageModel, texts: Sequence[str]) -> str:
    """Asks for a feature's name."""
    question = f"{TASK} Answer with the few words only.\n\n{_listed(texts)}"
    worked = "\n\n".join(f"{_listed(one)}\nIn common: {name}" for one, name in WORKED)
    return asked(lm, question, plain=f"{TASK}\n\n{worked}\n\n{_listed(texts)}\nIn common:")  # 2


def _listed(texts: Sequence[str]) -> str:
    """Texts, and what is marked in them."""
    marked = ", ".join(dict.fromkeys(marked_in(text) for text in texts))
    return "\n".join([*(f"Text: {text.strip()}" for text in texts), f"Marked: {marked}"])


def marked_in(text: str) -> str:
    """What stands between the marks.

    >>> marked_in("on the« mat».")
    'mat'
    """
    return text.rpartition("«")[2].partition("»")[0].strip()


def fit_prompt(lm: LanguageModel, name: str, text: str) -> str:
    """Asks whether a text's marked token fits a name."""
    question = f"{QUESTION}\n\n{_pair(name, text)}"
    (places, place), (joys, _) = WORKED
    cases = ((place, places[0], "Yes"), (place, joys[1], "No"))
    worked = "\n\n".join(f"{_pair(one, of)}\nAnswer: {said}" for one, of, said in cases)
    return asked(lm, question, plain=f"{QUESTION}\n\n{worked}\n\n{_pair(name, text)}\nAnswer:")


def _pair(name: str, text: str) -> str:
    return f"Description: {name}\nText: {text.strip()}\nMarked: {marked_in(text)}"


def name_in(answer: str) -> str:
    """The name in an answer; empty where there is none.  (3)

    >>> name_in(' "Words of joy."\\n\\nText'), name_in("  \\n")
    ('Words of joy', '')
    """
    lines = [line for line in answer.strip().splitlines() if line.strip()]
    first = re.sub(r"\s+", " ", lines[0]).strip(" \"'`*.:-") if lines else ""
    return first[:LONGEST_NAME].strip()
