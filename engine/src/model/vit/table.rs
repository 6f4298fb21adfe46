//! Sizes and tensors of the vision transformer.

/// Length of a token.
pub(crate) const WIDTH: usize = 512;
/// Number of blocks.
pub(crate) const BLOCKS: usize = 24;
/// Attention heads of a block.
pub(crate) const HEADS: usize = 16;
/// Inner width of a block's perceptron.
pub(crate) const INNER: usize = 3 * WIDTH;
/// Side of a patch in pixels.
pub(crate) const PATCH: usize = 8;
/// Patches along a side.
pub(crate) const GRID: usize = 14;
/// Number of tokens.
pub(crate) const TOKENS: usize = GRID * GRID;
/// Kinds of relative position that the encoding tells apart.
pub(crate) const BUCKETS: usize = 49;

/// Names and shapes of the tensors for an embedding of `dim` values, in the order of registration. `keypoints` adds
/// the layer that looks at the landmarks.
pub(crate) fn tensors(keypoints: bool, dim: usize) -> Vec<(String, Vec<usize>)> {
    let mut tensors: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| tensors.push((name, shape.to_vec()));
    add("pos_embed".into(), &[1, TOKENS, WIDTH]);
    add("patch_embed.proj.weight".into(), &[WIDTH, 3, PATCH, PATCH]);
    add("patch_embed.proj.bias".into(), &[WIDTH]);
    for block in 0..BLOCKS {
        for (part, shape) in [
            ("norm1.weight", &[WIDTH] as &[usize]),
            ("norm1.bias", &[WIDTH]),
            ("norm2.weight", &[WIDTH]),
            ("norm2.bias", &[WIDTH]),
            ("attn.qkv.weight", &[3 * WIDTH, WIDTH]),
            ("attn.proj.weight", &[WIDTH, WIDTH]),
            ("attn.proj.bias", &[WIDTH]),
            ("mlp.fc1.weight", &[INNER, WIDTH]),
            ("mlp.fc1.bias", &[INNER]),
            ("mlp.fc2.weight", &[WIDTH, INNER]),
            ("mlp.fc2.bias", &[WIDTH]),
        ] {
            add(format!("blocks.{block}.{part}"), shape);
        }
    }
    add("norm.weight".into(), &[WIDTH]);
    add("norm.bias".into(), &[WIDTH]);
    for (linear, shape) in [(0, [WIDTH, TOKENS * WIDTH]), (2, [dim, WIDTH])] {
        add(format!("feature.{linear}.weight"), &shape);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            add(format!("feature.{}.{part}", linear + 1), &shape[..1]);
        }
    }
    if keypoints {
        add("keypoint_linear.weight".into(), &[BUCKETS * HEADS * BLOCKS, 10]);
        add("keypoint_linear.bias".into(), &[BUCKETS * HEADS * BLOCKS]);
    }
    tensors
}
