//! What `verify` compares a model with: safetensors of token ids, logits and hidden states.

use easyedit::models::verify;
use safetensors::tensor::{Dtype, TensorView};

use super::seed;
use crate::scratch::{file, folder};
use crate::small_model::model;

pub(super) fn run(data: &[u8]) -> bool {
    let path = file(&folder("dumps"), "golden.safetensors", data);
    let verified = verify(model(), &path, 1e-3);
    verified.is_ok_and(|verification| verification.agrees() || verification.worst().is_some())
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let (rows, length) = (2, 3);
    let ids: Vec<i64> = vec![1, 2, 3, 4, 5, 6];
    let mask: Vec<i64> = vec![1, 1, 1, 0, 1, 1];
    let spec = model().spec();
    let floats = |width: usize| vec![0.25f32; rows * length * width];
    let (logits, hidden) = (floats(spec.vocab_size), floats(spec.d_model));
    let whole: (Dtype, Vec<usize>) = (Dtype::I64, vec![rows, length]);
    let of = |tensors: &[(&str, Dtype, Vec<usize>, &[u8])]| {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        safetensors::serialize(views, None).unwrap()
    };
    let input = ("input_ids", whole.0, whole.1.clone(), bytemuck::cast_slice(&ids));
    let masked = ("attention_mask", whole.0, whole.1, bytemuck::cast_slice(&mask));
    let logits = ("logits", Dtype::F32, vec![rows, length, spec.vocab_size], bytemuck::cast_slice(&logits));
    let hidden = |name| (name, Dtype::F32, vec![rows, length, spec.d_model], bytemuck::cast_slice(&hidden));
    vec![
        seed("hidden", of(&[input.clone(), masked.clone(), hidden("hidden_0"), hidden("hidden_1")])),
        seed("logits", of(&[input.clone(), logits])),
        seed("masked", of(&[input, masked, hidden("hidden_1")])),
    ]
}
