"""Layers: one idea a file. None of them sees a config; `tfbert.encoder` turns configs into arguments.

Dimension key of the whole package; a comment `# [B, F, N, H]` ends each line that changes a shape:
  B batch, L length, F query ("from") length, T key ("to") length, P predictions a sequence,
  D hidden size, E embedding width, I intermediate size, N heads, H size per head (D = N * H), V vocabulary.

Layers nest as the scopes of google-research/bert did, so that `variable.path` is the name that the
variable has in Google's checkpoints. Each computes in the dtype of its Keras policy, and keeps
variables, layer norms, softmax and logits in float32.
"""
