"""The columns of responses: what is known of a feature before it is steered, and what two models then answered."""

from suture.pipeline.table import Column

BEFORE, AGREE, EACH = "Before steering", "Agreement", "In each model"
MODEL = ("feature", "model")

SCORES = (
    Column(
        name="r", title="co-firing r", format="correlation", group=BEFORE,
        sentence="Correlation of its values in the codes of A alone and of B alone, the other imputed.",
    ),
    Column(
        name="r_ctx", title="r beyond the token", format="correlation", group=BEFORE,
        sentence="The same beyond what the token explains, on documents that training never saw.",
    ),
    Column(
        name="jaccard", title="co-firing", format="share", group=BEFORE,
        sentence="Rows on which it fires from both models alone over rows on which it does from either.",
    ),
    Column(
        name="evenness", title="evenness", format="share", group=BEFORE,
        sentence="1 where both models have it alike, 0 where one has all of it: from the share that labels rest on.",
    ),
    Column(
        name="mapped_cosine", title="mapped cosine", format="correlation", group=BEFORE,
        sentence="Cosine of its row in B with that of A carried over by the linear map between the models.",
    ),
)  # fmt: skip
"""What might predict agreement."""

COLUMNS = (
    Column(name="number", title="feature", format="integer", group=BEFORE, sentence="Its number in the dictionary."),
    Column(name="label", title="label", format="text", group=BEFORE, sentence="Whose feature it is."),
    *SCORES,
    Column(
        name="correlation", title="correlation", format="correlation", group=AGREE,
        sentence="Of the two models' changes of log-probability after the same prompts, over the shared vocabulary.",
    ),
    Column(
        name="mismatched", title="mismatched", format="correlation", group=AGREE,
        sentence="The same with this feature in one model and other features in the other: the mean.",
    ),
    Column(
        name="agreement", title="agreement", format="correlation", group=AGREE, better="high",
        sentence="The correlation less the mismatched one.",
    ),
    Column(name="agreement_low", title="low", format="correlation", group=AGREE, sentence="Of its 95 % interval."),
    Column(name="agreement_high", title="high", format="correlation", group=AGREE, sentence="Of its 95 % interval."),
    Column(
        name="causal", title="causal equivalence", format="correlation", group=AGREE,
        sentence="Taken out of both models: correlation of the two shifts over positions, less the control's.",
    ),
    Column(
        name="effect", title="effect at equal KL", unit="nats", axes=MODEL, group=EACH,
        sentence="How far its targets move at the strength that costs the KL that all are compared at.",
    ),
    Column(
        name="control", title="of a control", unit="nats", axes=MODEL, group=EACH,
        sentence="The same of directions drawn with the covariance of the model's activations.",
    ),
    Column(
        name="transfer", title="transferred", format="percent", axes=MODEL, group=EACH,
        sentence="The effect at equal KL of the other model's direction, carried over, over the effect of its own.",
    ),
    Column(
        name="collateral", title="others moved", format="integer", axes=MODEL, group=EACH, better="low",
        sentence="Other features that move at the reference dose.",
    ),
    Column(
        name="repetition", title="repetition", format="percent", axes=MODEL, group=EACH, better="low",
        sentence="Of the runs of three tokens written at the reference dose, those that stood there before.",
    ),
    Column(
        name="surprise", title="surprise", unit="nats per token", axes=MODEL, group=EACH,
        sentence="What the model left alone makes of what is written at the reference dose, less the same without.",
    ),
)  # fmt: skip
