"""The legend of the axis words used in shapes throughout suture; a test finds a word that is missing here.

| word | one entry is |
|------|--------------|
| `row`, `item` | one text position (in a pooled batch, and where an item is meant: one text position in one model) |
| `space`, `model` | one model at one hookpoint, or one language model |
| `width`, `width_a`, `width_b`, `height`, `inner` | one coordinate of an activation, or of a matrix between two |
| `source`, `target`, `source_width`, `target_width` | the same where something is mapped from one place to another |
| `D`, `D_in`, `D_all`, `columns` | one coordinate of several spaces side by side: of a dictionary's row, of what meets
  its encoder, of a store's row, of some of its spaces |
| `feature`, `vector`, `direction`, `edit` | one unit of a dictionary; one vector, or one edit made with it |
| `member`, `own`, `other`, `one`, `left`, `right`, `pair` | one feature of several that are joined or compared, by the
  side that it is on; one pair of them |
| `family`, `dictionary` | one feature that several dictionaries have; one of these |
| `active` | one non-zero (row, feature) pair of a batch of codes |
| `entry`, `bag` | one row of a table, and one sum of several of them, where sparse products are made |
| `k` | one of the k largest |
| `row_plus_one`, `feature_plus_one`, `bag_plus_one` | where each of these begins; one more entry ends the last |
| `top`, `example` | one of a feature's strongest examples |
| `quantile`, `bin` | one of several quantiles; one bin of a histogram |
| `neighbour` | one of the features that lie nearest to a feature |
| `code` | one code of several of the same rows: of all models together, or of one alone |
| `step` | one step of a path from one dictionary to another |
| `way`, `rank`, `rows` | one way of writing features; one direction of a subspace; one row of a matrix |
| `label`, `question` | one label; one thing asked of a feature |
| `concept`, `common`, `found` | one planted ground-truth direction; one that two models have; one that was found |
| `document`, `group`, `unit`, `half` | one document; one set of them; what a bootstrap draws; the rows of one half |
| `draw` | one bootstrap sample |
| `train`, `heldout`, `discovery`, `evaluation`, `judged` | one row, or prompt, of that part of the data |
| `batch`, `sequence`, `piece`, `token`, `context`, `position` | a sequence, a piece of a document, a position in one |
| `with_bos`, `scored`, `point` | a position, counted with the token that begins the text; one that is predicted; one
  whose activation is looked at |
| `vocab`, `used`, `out`, `up`, `down`, `stop` | a vocabulary entry; one used, raised, lowered, or ending a text |
| `prompt`, `text`, `dose` | one prompt; one text; one dose of steering: a strength, or what a KL budget comes to |
| `chosen`, `kept`, `known`, `some` | one of those chosen, kept, known or taken of another axis |
| `n`, `m`, `p`, `q` | sizes that stand for any |
| `query`, `more`, `rest`, `sum` | any further axes; one of several sums |
"""
