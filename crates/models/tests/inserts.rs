//! Vectors inserted into rows: what every model makes of them, and that rows are told apart by them wherever rows are shared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor};
use common::values;
use easyedit_core::{
    EditedModel, ForwardChange, GenerationConfig, Insert, LanguageModel, Matrix, Overlay, ParameterRole, Pass, Probe, Site, Stack,
    TokenBatch, TokenRow, generate,
};
use easyedit_models::families;
use easyedit_models::tiny::{tiny_config, tiny_model};

/// What stands where vectors are inserted.
const PLACEHOLDER: u32 = 3;

/// The types that have a tiny model.
fn types() -> impl Iterator<Item = &'static str> {
    families().iter().flat_map(|family| family.model_types.iter().copied()).filter(|family| tiny_config(family).is_ok())
}

/// The embeddings of `ids`, without positions.
fn embeddings(model: &dyn LanguageModel, ids: &[u32]) -> Matrix {
    let table = model.spec().name_of(Stack::Decoder, None, ParameterRole::TokenEmbedding).unwrap();
    let rows: Vec<usize> = ids.iter().map(|id| *id as usize).collect();
    Matrix::from_tensor(&model.rows_of(model.weight(table).unwrap(), &rows)).unwrap()
}

/// `ids` with placeholders at `at`, where the embeddings of the ids themselves are inserted.
fn inserted(model: &dyn LanguageModel, ids: &[u32], at: std::ops::Range<usize>) -> TokenRow {
    let insert = Insert::new(at.start, embeddings(model, &ids[at.clone()])).unwrap();
    let mut placeholders = ids.to_vec();
    placeholders[at].fill(PLACEHOLDER);
    TokenRow::with_inserts(placeholders, vec![insert]).unwrap()
}

/// Logits of all tokens; in an encoder-decoder, of a short row that reads each of `rows`.
fn logits(model: &dyn LanguageModel, rows: &[TokenRow]) -> Vec<f32> {
    let (sources, batch) = match model.encoder() {
        Some(_) => (rows.to_vec(), TokenBatch::new(&vec![[256, 9, 8]; rows.len()]).unwrap()),
        None => (Vec::new(), TokenBatch::new(rows).unwrap()),
    };
    all(model, model.start(&sources, batch).unwrap())
}

fn all(model: &dyn LanguageModel, mut pass: Pass) -> Vec<f32> {
    let hidden = model.hidden(&mut pass, &mut ()).unwrap();
    values(&model.logits(hidden, &(0..pass.batch().tokens()).collect::<Vec<_>>()).unwrap())
}

#[test]
fn an_inserted_embedding_is_the_token_itself_bit_for_bit() {
    for family in types() {
        let model = tiny_model(family, 4).unwrap();
        let (a, b) = ([7, 90, 91, 92, 8, 9], [7, 90, 55, 92, 8, 9]);
        let plain = |ids: &[u32]| logits(&*model, &[ids.to_vec().into()]);
        for at in [0..6, 0..1, 2..4, 5..6] {
            assert_eq!(logits(&*model, &[inserted(&*model, &a, at.clone())]), plain(&a), "{family} {at:?}");
        }
        // Equal ids, different vectors; together with a row of text.
        let rows = [inserted(&*model, &a, 1..4), vec![4, 5].into(), inserted(&*model, &b, 1..4), inserted(&*model, &a, 1..4)];
        assert_eq!(rows[0].ids(), rows[2].ids());
        let together = logits(&*model, &rows);
        assert_eq!(together, [plain(&a), plain(&[4, 5]), plain(&b), plain(&a)].concat(), "{family}");
        assert_ne!(plain(&a), plain(&b), "{family}");
    }
}

#[test]
fn a_decoders_own_row_takes_inserts_beside_its_sources() {
    let model = tiny_model("t5", 4).unwrap();
    let run = |source: TokenRow, row: TokenRow| all(&*model, model.start(&[source], TokenBatch::new(&[row]).unwrap()).unwrap());
    let plain = run(vec![5, 6].into(), vec![256, 40, 41].into());
    assert_eq!(run(inserted(&*model, &[5, 6], 1..2), inserted(&*model, &[256, 40, 41], 1..3)), plain);
    assert_ne!(run(vec![5, 6].into(), inserted(&*model, &[256, 40, 42], 1..3)), plain);
}

/// Counts the tokens that the layers run.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

struct Nothing;

impl Probe for Nothing {
    fn at(&mut self, _: Site, activations: Tensor<2>) -> Tensor<2> {
        activations
    }
}

impl ForwardChange for Counted {
    fn encoder_probe(&self, sources: &TokenBatch, _: &Device) -> Option<Box<dyn Probe + '_>> {
        self.0.fetch_add(sources.tokens(), Ordering::Relaxed);
        Some(Box::new(Nothing))
    }
}

#[test]
fn equal_sources_are_encoded_once_and_different_inserts_apart() {
    let tokens = Arc::new(AtomicUsize::new(0));
    let model = tiny_model("t5", 4).unwrap();
    let counted = EditedModel::new(model.clone(), "count", Overlay::default(), Counted(Arc::clone(&tokens)));
    let of = |ids: &[u32]| inserted(&*model, ids, 1..3);
    let rows = [of(&[7, 1, 2]), of(&[7, 1, 2]), of(&[7, 1, 9]), of(&[7, 1, 2])];
    let together = logits(&counted, &rows);
    assert_eq!(tokens.load(Ordering::Relaxed), 6, "two of four sources differ");
    let alone: Vec<f32> = rows.iter().flat_map(|row| logits(&*model, std::slice::from_ref(row))).collect();
    assert_eq!(together, alone);
}

#[test]
fn passes_and_caches_keep_inserts() {
    for family in ["gpt2", "opt", "llama", "chatglm"] {
        let model = tiny_model(family, 4).unwrap();
        let device = model.device();
        let ids = [[7, 90, 91, 92, 8, 9], [7, 90, 55, 66, 8, 9]];
        let rows = ids.map(|ids| inserted(&*model, &ids, 1..4));
        let whole: Vec<Vec<f32>> = rows.iter().map(|row| logits(&*model, std::slice::from_ref(row))).collect();
        assert_ne!(whole[0], whole[1], "{family}");
        let pass = Pass::new(TokenBatch::new(&rows).unwrap(), &device);
        let picked = all(&*model, pass.select_rows(&[1, 0, 1]).unwrap());
        assert_eq!(picked, [&whole[1][..], &whole[0], &whole[1]].concat(), "{family}: rows picked");
        let one = |row: usize| Pass::new(TokenBatch::new(&rows[row..=row]).unwrap(), &device);
        assert_eq!(all(&*model, Pass::join(&[&one(1), &one(0)]).unwrap()), [&whole[1][..], &whole[0]].concat(), "{family}: joined");
        // Cut inside of the insert.
        let mut first = Pass::new(TokenBatch::new(&[rows[0].prefix(2), rows[1].prefix(2)]).unwrap(), &device).keeping();
        model.hidden(&mut first, &mut ()).unwrap();
        let ends = TokenBatch::new(&[rows[0].suffix(2), rows[1].suffix(2)]).unwrap();
        let rest = all(&*model, Pass::after(ends, first.into_cache().unwrap(), &device).unwrap());
        let vocabulary = model.spec().vocab_size;
        assert_eq!(rest, [&whole[0][2 * vocabulary..], &whole[1][2 * vocabulary..]].concat(), "{family}: cut");
    }
}

#[test]
fn continuations_are_those_of_the_inserted_tokens() {
    for family in ["gpt2", "llama", "t5"] {
        let model = tiny_model(family, 4).unwrap();
        let config = GenerationConfig { ignore_eos: true, ..GenerationConfig::greedy(8) };
        let ids: Vec<Vec<u32>> = (0..6).map(|i| vec![7, 30 * i, 20 * i + 5, 8]).collect();
        let rows: Vec<TokenRow> = ids.iter().map(|ids| inserted(&*model, ids, 1..3)).collect();
        assert!(rows.iter().all(|row| row.ids() == rows[0].ids()));
        let continued = generate(&*model, &rows, &config).unwrap();
        assert_eq!(continued, generate(&*model, &ids, &config).unwrap(), "{family}");
        assert!(continued.iter().any(|one| *one != continued[0]), "{family}: vectors make a difference");
    }
}

#[test]
fn inserts_of_another_width_are_refused() {
    for family in ["gpt2", "llama", "t5"] {
        let model = tiny_model(family, 4).unwrap();
        let insert = Insert::new(0, Matrix::row(vec![0.0; 16])).unwrap();
        let row = TokenRow::with_inserts(vec![1, 2], vec![insert]).unwrap();
        let pass = Pass::new(TokenBatch::new(&[&row]).unwrap(), &model.device());
        let message = model.embed(&pass).unwrap_err().to_string();
        assert!(message.contains("width 16") && message.contains("width 32"), "{message}");
        if let Some(encoder) = model.encoder() {
            let message = encoder.encode(&TokenBatch::new(&[row]).unwrap(), &mut ()).unwrap_err().to_string();
            assert!(message.contains("width 16"), "{message}");
        }
    }
}
