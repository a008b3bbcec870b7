//! Encoder output and logits of encoder-decoders against those of Hugging Face's implementation (shared fixtures).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{MemoryTensors, assert_close, largest_difference, load, rows, shared, unpadded, values};
use easyedit_core::{LanguageModel, TokenBatch};

/// The decoder's golden rows, which have no pads.
fn decoder_rows(golden: &MemoryTensors) -> Vec<Vec<u32>> {
    let (shape, ids) = &golden.tensors["decoder_input_ids"];
    ids.chunks(shape[1]).map(|row| row.iter().map(|id| *id as u32).collect()).collect()
}

fn logits(model: &dyn LanguageModel, sources: &[Vec<u32>], rows: &[Vec<u32>]) -> Vec<f32> {
    let batch = TokenBatch::new(rows).unwrap();
    let positions: Vec<usize> = (0..batch.tokens()).collect();
    let mut pass = model.start(sources, batch).unwrap();
    let hidden = model.hidden(&mut pass, &mut ()).unwrap();
    values(&model.logits(hidden, &positions).unwrap())
}

fn agrees(family: &str) {
    let Some(folder) = shared(&format!("fixtures/{family}")) else { return };
    let golden = MemoryTensors::open(&folder.join("golden.safetensors"));
    let model = load(&folder);
    let (sources, targets) = (rows(&golden), decoder_rows(&golden));
    assert!(sources[0].len() > sources[1].len(), "the golden batch is ragged");
    let batch = TokenBatch::new(&sources).unwrap();
    let encoded = model.encoder().unwrap().encode(&batch, &mut ()).unwrap();
    let want = unpadded(&golden, "encoder_last_hidden_state", &batch);
    println!("{family}: encoder outputs differ by up to {:e}", largest_difference(&values(&encoded.hidden()), &want));
    assert_close(&values(&encoded.hidden()), &want, 1e-4, "encoder output");
    let together = logits(model.as_ref(), &sources, &targets);
    println!("{family}: logits differ by up to {:e}", largest_difference(&together, golden.get("logits")));
    assert_close(&together, golden.get("logits"), 1e-4, "logits");
    // Each row alone gives what it gives beside a longer source and a longer row.
    let vocab = model.spec().vocab_size;
    let shorter = [targets[0].clone(), targets[1][..2].to_vec()];
    let ragged = logits(model.as_ref(), &sources, &shorter);
    assert_close(&ragged[..4 * vocab], &together[..4 * vocab], 2e-5, "the longer row");
    assert_close(&ragged[4 * vocab..], &together[4 * vocab..6 * vocab], 2e-5, "the shorter row");
    for row in 0..2 {
        let alone = logits(model.as_ref(), &sources[row..=row], &targets[row..=row]);
        assert_close(&alone, &together[row * 4 * vocab..(row + 1) * 4 * vocab], 2e-5, "a row alone");
    }
}

#[test]
fn t5_with_relu_and_a_tied_head() {
    agrees("t5");
}

#[test]
fn t5_v1_1_with_gated_gelu_and_a_head_of_its_own() {
    agrees("t5_v1_1");
}
