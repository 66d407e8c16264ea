"""What is known about a bridge's maps, and about features that were carried over one, column by column."""

from suture.pipeline.table import Column

AXES = ("kind", "way")

SCORES = (
    Column(
        name="r2", title="R²", format="share", axes=AXES, better="high",
        sentence="Share of the other space's variance that the map explains, on held-out documents.",
    ),
    Column(
        name="r2_low", title="R², lower end", format="share", axes=AXES,
        sentence="Lower end of its 95 % interval over documents.",
    ),
    Column(
        name="r2_high", title="R², upper end", format="share", axes=AXES,
        sentence="Upper end of its 95 % interval over documents.",
    ),
    Column(
        name="control", title="control", format="share", axes=AXES,
        sentence="The same, fitted and judged on rows that do not belong together: 0 or less is nothing.",
    ),
    Column(
        name="r2_texts", title="R² of texts", format="share", axes=AXES, better="high",
        sentence="Share explained of the differences between whole documents' mean activations.",
    ),
    Column(
        name="penalty", title="penalty", axes=AXES,
        sentence="The ridge penalty chosen for this way, as a part of the mean variance of a coordinate mapped from.",
    ),
    Column(
        name="loss", title="spliced loss", unit="nats", axes=AXES, better="low",
        sentence="The other model's loss with the mapped rows in place of its activations, where it was measured.",
    ),
    Column(
        name="loss_clean", title="own loss", unit="nats", axes=AXES,
        sentence="That model's loss on the same text with its own activations.",
    ),
    Column(
        name="recovered", title="loss recovered", format="percent", axes=AXES, better="high",
        sentence="Of the loss that replacing its activations by their mean costs, what the mapped rows save.",
    ),
    Column(name="seconds", title="seconds", unit="s", axes=AXES, sentence="Time that both ways' fit took."),
)  # fmt: skip

SURVIVAL = (
    Column(
        name="label", title="label", format="text",
        sentence=(
            "survives: its carried code goes with its own on held-out rows; fades: less; lost: hardly or not at all; "
            "dead: it fires in neither model's rows."
        ),
    ),
    Column(
        name="why", title="why", format="text",
        sentence="What is seen of a feature that does not survive; empty for one that does.",
    ),
    Column(
        name="r", title="correlation", format="correlation", better="high",
        sentence="Correlation of its code in the other model with its own, at the same text positions, held out.",
    ),
    Column(
        name="rows_before", title="rows before", format="integer",
        sentence="Held-out rows on which it fires in its own model.",
    ),
    Column(
        name="rows_after", title="rows after", format="integer",
        sentence="Held-out rows on which it fires in the other model.",
    ),
    Column(
        name="norm_kept", title="norm kept", format="share",
        sentence="Length of its decoder row after the map, as a part of its length before, scaled units.",
    ),
    Column(
        name="round_trip", title="round trip", format="correlation",
        sentence="Cosine of its decoder row with what there and back through both maps leaves of it.",
    ),
    Column(
        name="refit_cosine", title="refitted", format="correlation",
        sentence="Cosine of its carried decoder row with the refitted one.",
    ),
)  # fmt: skip
