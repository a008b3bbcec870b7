//! Whatever predicts can be measured, with or without layers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod toy;

use easyedit_core::tokens::TargetTokens;
use easyedit_core::{
    CheckedRequest, EditRequest, EditedModel, ForwardChange, Generation, GenerationConfig, Overlay, Predictor, Progress, Result, Silent,
    TargetScore, TokenSlice, Tokenizer,
};
use easyedit_eval::{Evaluation, perplexity};

use crate::toy::{POSITIONS, Toy, id};

/// Says one word to everything, with probability 1/2.
#[derive(Debug)]
struct Parrot {
    tokenizer: Tokenizer,
    word: u32,
}

impl Parrot {
    fn saying(word: &str) -> Self {
        Self { tokenizer: Toy::new().tokenizer().clone(), word: id(word) }
    }
}

impl Predictor for Parrot {
    fn name(&self) -> &str {
        "parrot"
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_positions(&self) -> usize {
        POSITIONS
    }

    fn decoder_start(&self) -> Option<u32> {
        None
    }

    fn score(&self, rows: &[&TargetTokens], progress: &dyn Progress) -> Result<Vec<TargetScore>> {
        progress.step(rows.len() as u64)?;
        let of_row = |row: &&TargetTokens| {
            let target = row.target().to_vec();
            TargetScore { predicted: vec![self.word; target.len()], log_probs: vec![-std::f32::consts::LN_2; target.len()], target }
        };
        Ok(rows.iter().map(of_row).collect())
    }

    fn generate(&self, prompts: &[TokenSlice<'_>], config: &GenerationConfig, _: &dyn Progress) -> Result<Vec<Generation>> {
        Ok(prompts.iter().map(|_| Generation { ids: vec![self.word; config.max_new_tokens] }).collect())
    }
}

/// An overlay under which the parrot answers.
#[derive(Debug)]
struct Spoken(Parrot);

impl ForwardChange for Spoken {
    fn predictor(&self) -> Option<&dyn Predictor> {
        Some(&self.0)
    }
}

fn request(target: &str) -> CheckedRequest {
    CheckedRequest::new(EditRequest::new("capital of France", "France", target)).unwrap()
}

#[test]
fn a_predictor_without_layers_is_measured() {
    let parrot = Parrot::saying("Oslo");
    let evaluation = Evaluation::new(&parrot, &[request("Oslo"), request("Rome")]).unwrap();
    let answers = evaluation.ask(&parrot, &Silent).unwrap();
    assert_eq!(answers[0].metrics(None).rewrite_acc, [1.0]);
    assert_eq!(answers[1].metrics(None).rewrite_acc, [0.0]);
    let found = perplexity(&parrot, &["capital of France".to_owned()], &Silent).unwrap();
    assert!((found.perplexity - 2.0).abs() < 1e-6 && found.tokens == 2, "{found:?}");
}

#[test]
fn an_overlay_may_answer_in_the_place_of_the_model() {
    let model = Toy::new();
    let evaluation = Evaluation::new(&model, &[request("Paris"), request("Oslo")]).unwrap();
    let scores = |predictor: &dyn Predictor| {
        let answers = evaluation.ask(predictor, &Silent).unwrap();
        [0, 1].map(|i: usize| [answers[i].metrics(None).rewrite_acc[0], answers[i].free_metrics(None).rewrite_acc[0]])
    };
    assert_eq!(scores(&model), [[1.0, 1.0], [0.0, 0.0]]);
    let edited = EditedModel::new(Box::new(model), "PARROT", Overlay::default(), Spoken(Parrot::saying("Oslo")));
    assert_eq!(scores(&edited), [[0.0, 0.0], [1.0, 1.0]]);
}
