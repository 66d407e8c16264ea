"""The legend of the axis words used in shapes throughout suture.

| word      | one entry is                                                        |
|-----------|---------------------------------------------------------------------|
| `row`     | one text position (in a pooled batch: one text position in one model) |
| `space`   | one model at one hookpoint                                          |
| `width`   | one coordinate of an activation; of several spaces side by side, `D` |
| `feature` | one unit of a dictionary                                            |
| `active`  | one non-zero (row, feature) pair of a batch of codes                |
| `top`     | one of a feature's strongest examples                               |
| `group`   | one set of documents, the unit that the bootstrap draws             |
| `draw`    | one bootstrap sample                                                |
| `batch`, `token`, `vocab` | a sequence, a position in it, a vocabulary entry    |
| `concept` | one planted ground-truth direction                                  |
"""
