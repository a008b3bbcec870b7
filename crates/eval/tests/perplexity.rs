//! Perplexity against the definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use easyedit_core::{LanguageModel, Matrix, Pass, Silent, TokenBatch};
use easyedit_eval::perplexity;
use easyedit_models::tiny::tiny_model;

fn documents() -> Vec<String> {
    ["Ada Quill speaks Welsh and lives by the river.", "Tarn", "", "The bridge was built by nobody at all, they say."]
        .map(str::to_owned)
        .into()
}

/// The negative log-likelihoods of all tokens but the first, one prefix at a time.
fn one_by_one(model: &dyn LanguageModel, ids: &[u32]) -> Vec<f64> {
    (1..ids.len())
        .map(|length| {
            let mut pass = Pass::new(TokenBatch::new(&[&ids[..length]]).unwrap(), &model.device());
            let hidden = model.hidden(&mut pass, &mut ()).unwrap();
            let logits = Matrix::from_tensor(&model.logits(hidden, &[length - 1]).unwrap()).unwrap();
            let logits: Vec<f64> = logits.values().iter().map(|v| f64::from(*v)).collect();
            let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            most + logits.iter().map(|v| (v - most).exp()).sum::<f64>().ln() - logits[ids[length] as usize]
        })
        .collect()
}

#[test]
fn it_is_the_mean_over_all_predicted_tokens() {
    for family in ["llama", "gpt2", "gpt_neox"] {
        let model = tiny_model(family, 3).unwrap();
        let limit = model.spec().max_positions;
        let long = "The river runs by the old mill. ".repeat(limit / 5);
        let documents: Vec<String> = documents().into_iter().chain([long]).collect();
        let mut expected = Vec::new();
        for document in &documents {
            let ids = model.tokenizer().encode(document).unwrap().ids;
            // The long one would take too many passes one by one: its first piece alone stands for it.
            let piece = &ids[..ids.len().min(limit)];
            if ids.len() <= limit {
                expected.extend(one_by_one(&*model, piece));
            }
        }
        let found = perplexity(&*model, &documents[..4], &Silent).unwrap();
        let mean = expected.iter().sum::<f64>() / expected.len() as f64;
        assert!((found.nll - mean).abs() < 1e-4 * mean, "{family}: {} and {mean}", found.nll);
        assert!((found.perplexity - found.nll.exp()).abs() < 1e-9);
        assert_eq!(found.tokens, expected.len(), "{family}");
        let all = perplexity(&*model, &documents, &Silent).unwrap();
        assert!(all.tokens > limit && all.documents == found.documents + 1, "{family}: {all:?}");
    }
}

#[test]
fn text_without_anything_to_predict_is_refused() {
    let model = tiny_model("llama", 3).unwrap();
    let error = perplexity(&*model, &[String::new()], &Silent).unwrap_err().to_string();
    assert!(error.contains("1 documents"), "{error}");
    let seq2seq = tiny_model("t5", 3).unwrap();
    assert!(perplexity(&*seq2seq, &documents(), &Silent).unwrap_err().to_string().contains("encoder-decoder"));
}
