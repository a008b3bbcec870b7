//! From GGUF's tensor names to Hugging Face's, for the llama architecture.

/// Rows of a projection that GGUF keeps in another order than Hugging Face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// As they are.
    Same,
    /// A query head's rows, paired for rotary embeddings.
    QueryHeads,
    /// A key head's.
    KeyHeads,
}

/// The Hugging Face name of a tensor of a model with `layers` layers, and how its rows lie; `None` if plain llama has no such tensor.
pub(super) fn hugging_face_name(name: &str, layers: usize) -> Option<(String, Rows)> {
    let same = |name: &str| Some((name.to_owned(), Rows::Same));
    match name {
        "token_embd.weight" => return same("model.embed_tokens.weight"),
        "output_norm.weight" => return same("model.norm.weight"),
        "output.weight" => return same("lm_head.weight"),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok().filter(|layer| *layer < layers)?;
    let (module, kind) = part.rsplit_once('.')?;
    let (module, rows) = match module {
        "attn_q" => ("self_attn.q_proj", Rows::QueryHeads),
        "attn_k" => ("self_attn.k_proj", Rows::KeyHeads),
        "attn_v" => ("self_attn.v_proj", Rows::Same),
        "attn_output" => ("self_attn.o_proj", Rows::Same),
        "ffn_gate" => ("mlp.gate_proj", Rows::Same),
        "ffn_up" => ("mlp.up_proj", Rows::Same),
        "ffn_down" => ("mlp.down_proj", Rows::Same),
        "attn_norm" => ("input_layernorm", Rows::Same),
        "ffn_norm" => ("post_attention_layernorm", Rows::Same),
        _ => return None,
    };
    matches!(kind, "weight" | "bias").then(|| (format!("model.layers.{layer}.{module}.{kind}"), rows))
}

/// Puts the rows of `heads` heads back into Hugging Face's order.
///
/// GGUF rotates neighbours (rows `2i` and `2i + 1` of a head), Hugging Face the halves (rows `i` and `i + d/2`), so a head's row
/// `s * d/2 + i` is GGUF's row `2i + s`. `None` if the rows do not divide into heads of even size.
pub(super) fn halves_from_pairs(values: &[f32], rows: usize, heads: usize) -> Option<Vec<f32>> {
    let head = rows.checked_div(heads).filter(|head| *head > 0 && head * heads == rows && head % 2 == 0)?;
    let width = values.len().checked_div(rows).filter(|width| *width > 0 && width * rows == values.len())?;
    let mut out = Vec::with_capacity(values.len());
    for block in values.chunks_exact(head * width) {
        for half in 0..2 {
            for pair in block.chunks_exact(2 * width) {
                out.extend_from_slice(&pair[half * width..][..width]);
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hugging_faces() {
        assert_eq!(hugging_face_name("blk.3.ffn_down.weight", 4).unwrap().0, "model.layers.3.mlp.down_proj.weight");
        let key = hugging_face_name("blk.0.attn_k.bias", 4).unwrap();
        assert_eq!(key, ("model.layers.0.self_attn.k_proj.bias".to_owned(), Rows::KeyHeads));
        for unknown in ["blk.4.ffn_down.weight", "blk.x.ffn_down.weight", "blk.0.ffn_gate_exps.weight", "blk.0.ffn_up.scale", "cls.weight"]
        {
            assert_eq!(hugging_face_name(unknown, 4), None, "{unknown}");
        }
    }

    #[test]
    fn pairs_become_halves() {
        // Two heads of four rows of one number: rows 0 1 | 2 3 are pairs.
        let values = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0];
        assert_eq!(halves_from_pairs(&values, 8, 2).unwrap(), [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0]);
        // One head of two rows of two numbers stays.
        assert_eq!(halves_from_pairs(&[1.0, 2.0, 3.0, 4.0], 2, 1).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(halves_from_pairs(&values, 8, 3), None);
        assert_eq!(halves_from_pairs(&values, 8, 8), None);
        assert_eq!(halves_from_pairs(&values, 8, 0), None);
    }
}
