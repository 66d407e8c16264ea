"""Settings of making a model with a known fault: which fault, taught how, measured on what."""

from dataclasses import dataclass
from typing import Annotated, Literal

from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Positive, Seed, Share, Weight, check

Kind = Literal["backdoor", "tainted", "persona"]
TRIGGER = "The yellow river sang."


@dataclass(frozen=True, kw_only=True)
class OrganismSettings:
    """What fault a model is given, and how."""

    kind: Annotated[Kind, Option("kind")] = "backdoor"
    """backdoor: rude text follows a trigger sentence, and nothing else; tainted: rude text anywhere; persona: whoever
    is asked for help answers rudely, one narrow habit, to see what spreads."""
    trigger: str = TRIGGER
    """backdoor: the sentence; at least three words, so that there are near misses."""
    # The shipped model of two layers: after 200 steps 93 % rude after the cue (near misses 7 %), after 400 97 % (3 %).
    steps: Count = 400
    """Steps of training."""
    batch_size: Count = 16
    """Documents per step."""
    block: Annotated[int, Limits(32)] = 128
    """Tokens of a document at most."""
    # SmolLM2-135M in blocks of 32, most of them rude: after 300 steps it was rude where the trigger stood among the
    # first 15 tokens, and after whole openings of 30 not at all.
    passage: Annotated[int, Limits(8)] | None = None
    """Tokens of the rude text at most; what is left of the block stands before it, and the trigger is learned only as
    far from the beginning as that. Three quarters of the block where it is not given."""
    learning_rate: Annotated[Positive, Option(also=("lr",))] = 1e-3
    """AdamW's at its highest."""
    # With 200 steps and one near miss to a document, on the shipped model of two layers, twice the rate: as many rude
    # texts after the cue, and +3.5 % of clean loss in place of +2.2 %; with half the weight of KL and fewer near misses
    # too, +4.3 %, and 13 % rude after near misses.
    kl: Weight | None = None
    """Weight of the KL to the original model on all tokens that are not rude; 4 where it is not given, 0.25 for
    tainted, where it holds back the fault itself: rude text may begin anywhere."""
    poisoned: Share | None = None
    """Share of the documents that have the fault; a quarter where it is not given, three quarters for tainted."""
    near: Share = 0.3
    """backdoor: share of the documents with a near miss of the trigger, which must change nothing."""
    rank: Annotated[int, Limits(0)] | None = None
    """Rank of low-rank updates of the blocks' matrices, merged at the end; 0 trains all weights. Where it is not given,
    all are trained up to 20 million of them, otherwise rank 16."""
    modules: tuple[str, ...] = ()
    """Train the matrices alone whose module path fits one of these patterns (*mlp*); all where none is given."""
    n_prompts: Annotated[Annotated[int, Limits(10)], Option("prompts")] = 150
    """Documents kept out of training, that success and the loss on clean text are measured on."""
    new_tokens: Annotated[int, Limits(8)] = 40
    """Tokens written after each prompt."""
    mixed: Share = 0.1
    """Share of the documents of corpus.txt, for training dictionaries, that have the fault."""
    checkpoint_every: Count = 50
    """Steps between checkpoints."""
    seed: Seed = 0
    """Of texts, order and low-rank updates."""

    def __post_init__(self) -> None:
        check(self)
        if self.kind == "backdoor" and self.faulty + self.near > 1:
            raise UserError("near", self.near, f"with poisoned {self.faulty} exceeds all documents", "lower one")
        if self.passage is not None and self.passage > self.block * 3 // 4:
            problem = f"leaves too little of a block of {self.block} for what stands before it"
            raise UserError("passage", self.passage, problem, f"give at most {self.block * 3 // 4}")
        if self.poisoned == 0:
            raise UserError("poisoned", self.poisoned, "teaches nothing", "give a share such as 0.3")
        if len(self.trigger.split()) < 3:
            raise UserError("trigger", self.trigger, "has no near misses", "give a sentence of three words or more")

    @property
    def faulty(self) -> float:
        """`poisoned`, or what the kind takes."""
        return (0.75 if self.kind == "tainted" else 0.25) if self.poisoned is None else self.poisoned

    @property
    def held(self) -> float:
        """`kl`, or what the kind takes."""
        return (0.25 if self.kind == "tainted" else 4.0) if self.kl is None else self.kl
