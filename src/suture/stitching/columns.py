"""What is known about a larger dictionary's features, about stand-ins for that, and about a path, column by column."""

from suture.pipeline.table import Column

MEASURED, ALIKE = "Measured", "Alike"

LATENTS = (
    Column(
        name="label", title="label", format="text", group=MEASURED,
        sentence=(
            "novel: added to the smaller dictionary it surely lowers the error; reconstruction: it surely raises it, "
            "the smaller one has it already; undecided; dead: it never fires."
        ),
    ),
    Column(
        name="delta", title="change of MSE", group=MEASURED, better="low",
        sentence=(
            "Change of the mean squared error (scaled units) when the feature alone is added to the smaller "
            "dictionary."
        ),
    ),
    Column(
        name="delta_low", title="change of MSE, lower end", group=MEASURED,
        sentence="Lower end of its 95 % interval over documents.",
    ),
    Column(
        name="delta_high", title="change of MSE, upper end", group=MEASURED,
        sentence="Upper end of its 95 % interval over documents.",
    ),
    Column(
        name="beta", title="best factor", format="share", group=MEASURED,
        sentence=(
            "The factor with which adding it would lower the error most: 1 for what the smaller dictionary lacks, 0 "
            "for what it has; above 1/2 it is novel."
        ),
    ),
    Column(
        name="gain", title="best gain", group=MEASURED,
        sentence="By how much the mean squared error falls when the feature is added with its best factor.",
    ),
    Column(
        name="delta_space", title="change of MSE by space", axes=("feature", "space"), group=MEASURED,
        sentence="Each space's own change of its mean squared error; all spaces of a feature are added together.",
    ),
    Column(
        name="rows", title="rows", format="integer", group=MEASURED,
        sentence="Rows on which it fires (pooled: of all spaces).",
    ),
    Column(
        name="activation_correlation", title="activation correlation", format="correlation", group=ALIKE,
        sentence="Correlation with the feature of the smaller dictionary whose values go with it most.",
    ),
    Column(
        name="decoder_cosine", title="decoder cosine", format="correlation", group=ALIKE,
        sentence="Largest cosine of its decoder row with one of the smaller dictionary.",
    ),
    Column(
        name="encoder_cosine", title="encoder cosine", format="correlation", group=ALIKE,
        sentence="Largest cosine of its encoder row with one of the smaller dictionary.",
    ),
    Column(
        name="mixture", title="decoder mixture", format="share", group=ALIKE,
        sentence="Share of its decoder row that the best non-negative mixture of the smaller one's ten nearest gives.",
    ),
    Column(
        name="beta_elsewhere", title="best factor, other documents", format="share", group=ALIKE,
        sentence="Its best factor on the half of the documents that stand-ins are measured on.",
    ),
)  # fmt: skip

PROXIES = (
    Column(
        name="roc_auc", title="ROC-AUC", format="share", better="high",
        sentence=(
            "Chance that a feature labelled novel on other documents looks less like the smaller dictionary's than "
            "one labelled reconstruction; one half for no knowledge."
        ),
    ),
    Column(
        name="roc_low", title="ROC-AUC, lower end", format="share",
        sentence="Lower end of its 95 % interval over features.",
    ),
    Column(
        name="roc_high", title="ROC-AUC, upper end", format="share",
        sentence="Upper end of its 95 % interval over features.",
    ),
    Column(
        name="pr_auc", title="PR-AUC", format="share", better="high",
        sentence=(
            "Mean precision over the novel features, from the least alike on; the share of novel ones for no "
            "knowledge."
        ),
    ),
    Column(name="n_novel", title="novel", format="integer", sentence="Features labelled novel on those documents."),
    Column(name="n_decided", title="decided", format="integer", sentence="Features labelled novel or reconstruction."),
)  # fmt: skip

PATH = (
    Column(
        name="phase", title="phase", format="text",
        sentence=(
            "start: the small dictionary; insert: a novel feature; swap: features of the small one for their "
            "counterparts; drop: one without counterpart; add: a large one's without; bias: b_dec."
        ),
    ),
    Column(
        name="mse", title="MSE", better="low",
        sentence="Mean squared error on rows of other documents, scaled units.",
    ),
    Column(
        name="fvu", title="FVU", format="share", better="low", axes=("step", "space"),
        sentence="Fraction of each space's variance unexplained.",
    ),
    Column(name="l0", title="L0", sentence="Active features of the average row."),
    Column(name="n_features", title="features", format="integer", sentence="Size of the dictionary at this step."),
    Column(name="n_inserted", title="inserted", format="integer", sentence="Features that the step puts in."),
    Column(name="n_removed", title="removed", format="integer", sentence="Features that the step takes out."),
    Column(
        name="loss", title="spliced loss", unit="nats", axes=("step", "space"), better="low",
        sentence="Each model's loss with the dictionary in place of its activations, where it was measured.",
    ),
)  # fmt: skip

MOVES = (
    Column(name="step", title="step", format="integer", sentence="The step of the path that moves it."),
    Column(
        name="side", title="side", format="text",
        sentence="small: a feature of the small dictionary, taken out; large: one of the large, put in.",
    ),
    Column(name="feature", title="feature", format="integer", sentence="Its number there."),
)  # fmt: skip

ORIGINS = (
    Column(
        name="part", title="dictionary", format="integer",
        sentence="Which of the dictionaries it is from: 0 the small one, 1 the large one, 2 and on the further ones.",
    ),
    Column(name="feature", title="feature", format="integer", sentence="Its number there."),
)  # fmt: skip
