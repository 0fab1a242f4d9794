"""FitCLIP's method: encode clips and texts, distil a student, fuse it with its teacher, measure.

Read in this order: `losses` (the two losses and their sum), `clips` (what is read: decoded clips,
and training's random views of them), `encoders` (features of videos, texts and classes),
`distillation` (one training step, and the fit that repeats it), `ensembling` (the fusion of
weights; `merges` has others), `zero_shot` (one rank for each item), `metrics` (what is computed
from ranks) and `statistics` (how sure a number is). `fast` changes how long a number takes, not the
number. Nothing here knows of manifests or notebooks.

Numeric conventions, which are the paper's:

- Alpha multiplies the student: theta = (1 - alpha) * teacher + alpha * student; FitCLIP's is 0.4.
  Floating-point tensors alone are fused, and `logit_scale`, which is the teacher's, is left out.
  Names and shapes must match and results be finite.
- Video feature: the mean over frames of the L2-normalised frame features, not renormalised.
  Class feature: the mean over prompts of the normalised text features, not renormalised.
- Frames at evaluation: of n intervals between integer-truncated ticks linspace(start, end, n + 1),
  each one's middle, rounded half to even. In training one uniform draw an interval, both ends
  included. n is 4, or the number of frames where that is smaller. The frame store (`data_prep`)
  decodes them; of training frames it holds several draws, and a step takes one of these.
- Contrastive loss: -mean_i log softmax_row(S)_ii - mean_i log softmax_col(S)_ii, the two directions
  summed, not halved. S = V T^t / temperature, with the fixed temperature 0.015.
- Distillation loss: KL(teacher || student) over rows plus over columns, each a mean over its
  distributions, times 1 / teacher temperature squared. The teacher's temperature is 0.015 as well,
  so that the loss is 0 where student and teacher are equal.
- The student starts from the teacher's weights.
- Total: labelled_share * contrastive + (1 - labelled_share) * distillation, labelled_share 0.9999.
  AdamW with learning rate 3e-6 and weight decay 0.01 on all weights, no schedule, 64 labelled and
  64 unlabelled clips a step, random resized crops (0.5 to 1 of the area) and flips. `logit_scale`
  has no part in it. The weights of the lowest validation loss, the contrastive loss of all
  validation clips at once, are kept; step 0 is never chosen.
- Ranks are 1-based; ties share the mid-rank, 1 + (strictly above) + (other tied) / 2, and scores
  that are not finite raise. R@k is the share of ranks <= k, MdR the true median. With several texts
  of one video, each text looks for its video among the distinct ones, and of a video's texts the
  best is ranked against other videos' texts.
- Error rate reduction: (new - old) / (100 - old) of an accuracy in percent, (old - new) / old of a
  median rank.
"""
