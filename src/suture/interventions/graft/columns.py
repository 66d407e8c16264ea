"""What is known of interventions, of steps of the curve, of candidates and of detectors, column by column."""

from suture.pipeline.table import Column

_ENDS = (("low", "lower end", "Lower"), ("high", "upper end", "Upper"))


def _share(name: str, title: str, sentence: str) -> tuple[Column, ...]:
    """A share and both ends of its interval."""
    own = Column(name=name, title=title, format="percent", better="low", sentence=sentence)
    ends = (
        Column(name=f"{name}_{end}", title=f"{title}, {said}", format="percent",
               sentence=f"{word} end of its 95 % interval.")
        for end, said, word in _ENDS
    )  # fmt: skip
    return (own, *ends)


OUTCOMES = (
    Column(
        name="group", title="group", format="text",
        sentence="as it is: nothing done; graft; other way: the graft's features in another way; ceiling; control.",
    ),
    Column(name="n_features", title="features", format="integer", sentence="Features that it acts on; 0 for none."),
    *_share("greedy", "success", "Part of the fresh prompts with the cue that the behaviour follows, greedily."),
    *_share("sampled", "success at temperature 1", "The same where words are drawn at temperature 1."),
    Column(
        name="near", title="after near misses", format="percent", better="low",
        sentence="Part of the fresh prompts with a near miss of the cue that are continued with the behaviour.",
    ),
    *_share("clean", "rise of the clean loss", "Rise of the loss on fresh documents over the unedited model's."),
    Column(
        name="kl", title="KL on clean text", unit="nats", better="low",
        sentence="KL from the unedited model's next tokens to the edited one's on fresh documents, per token.",
    ),
    Column(
        name="fluency", title="loss of what is written", unit="nats", better="low",
        sentence="Nats per token that the safe model (else the unedited one) gives the greedy continuations.",
    ),
    Column(
        name="strength_at_cost", title="strength at the graft's cost", better="high",
        sentence="Of a control that costs more than the graft: the strength at which it costs as much on clean text.",
    ),
    Column(
        name="greedy_at_cost", title="success at the graft's cost", format="percent", better="low",
        sentence="Success, greedily, at that strength.",
    ),
)  # fmt: skip

CURVE = (
    Column(name="hookpoint", title="hookpoint", format="text", sentence="Where the feature added last acts."),
    Column(name="feature", title="feature", format="integer", sentence="Its number in its dictionary; -1 for none."),
    *_share("greedy", "success", "Part of the fresh prompts with the cue that the behaviour follows, greedily."),
    *_share("clean", "rise of the clean loss", "Rise of the loss on fresh documents over the unedited model's."),
    Column(
        name="chosen", title="chosen", format="integer",
        sentence="1 where the graft ends, by the documents that choose; else 0.",
    ),
)  # fmt: skip

CANDIDATES = (
    Column(name="hookpoint", title="hookpoint", format="text", sentence="Where the feature is read and written."),
    Column(name="feature", title="feature", format="integer", sentence="Its number in its dictionary."),
    Column(
        name="score", title="worth", unit="nats", better="high",
        sentence="Integrated gradient of the behaviour's loss for removing it, less what that costs on clean text.",
    ),
    Column(
        name="contrast", title="contrast", better="high",
        sentence="Difference of its mean values with and without the behaviour, times the length of its row.",
    ),
    Column(name="rate", title="fires", format="percent", sentence="Part of the contrast's tokens on which it fires."),
    Column(
        name="share", title="share", format="share",
        sentence="Length of its row in the unsafe model over the sum of both; no number in a dictionary of one space.",
    ),
    Column(
        name="cost", title="clean cost alone", format="percent", better="low",
        sentence="Rise of the loss on clean text when it alone is removed; no number where it was not measured.",
    ),
    Column(name="taken", title="taken", format="integer", sentence="1 where the graft has it, else 0."),
)  # fmt: skip

DETECTORS = (
    Column(name="hookpoint", title="hookpoint", format="text", sentence="Where rows are read."),
    Column(
        name="kind", title="kind", format="text",
        sentence="A feature's value, a difference of means, a linear probe, or what only the unsafe model has.",
    ),
    Column(name="feature", title="feature", format="integer", sentence="Its number in its dictionary; -1 for none."),
    Column(
        name="auc_first", title="ROC-AUC, first tokens", format="share", better="high",
        sentence="How often a row of the behaviour's first tokens has more of it than a row of clean text.",
    ),
    Column(
        name="auc_all", title="ROC-AUC, from the cue on", format="share", better="high",
        sentence="The same of all rows from the cue to the end of the behaviour.",
    ),
)  # fmt: skip
