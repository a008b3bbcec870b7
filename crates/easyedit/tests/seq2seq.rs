//! Encoder-decoders through the facade: evaluation, generation, and methods that do not edit them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use burn::tensor::{Tensor, TensorData};
use easyedit::eval::{Answers, Evaluation};
use easyedit::models::tiny::tiny_model;
use easyedit::tokens::{encode_prompt, encode_with_target};
use easyedit::{CheckedRequest, EditRequest, GenerationConfig, LanguageModel, Session, Silent, generate};

/// A model that writes lower-case letters alone: all other rows of its head are zero.
fn speller() -> Box<dyn LanguageModel> {
    let mut model = tiny_model("mt5", 3).unwrap();
    let name = "lm_head.weight".into();
    let head = model.weight(&name).unwrap();
    let [rows, width] = head.dims();
    let mut letters = vec![0f32; rows];
    for id in model.tokenizer().encode_bare("abcdefghijklmnopqrstuvwxyz").unwrap() {
        letters[id as usize] = 1.0;
    }
    let letters = Tensor::<2>::from_data(TensorData::new(letters, [rows, 1]), &model.device());
    model.set_weight(&name, head * letters.expand([rows, width])).unwrap();
    model
}

fn ask(model: &dyn LanguageModel, requests: &[EditRequest]) -> Vec<Answers> {
    Evaluation::new(model, &CheckedRequest::all(requests.iter().cloned()).unwrap()).unwrap().ask(model, &Silent).unwrap()
}

const PROMPTS: [&str; 3] = ["Ada Quill speaks", "The bridge over the river Dun was built by", "Norland"];

fn continuations(model: &dyn LanguageModel, length: usize) -> Vec<String> {
    let prompts: Vec<_> = PROMPTS.iter().map(|prompt| encode_prompt(model, prompt).unwrap()).collect();
    let written = generate(model, &prompts, &GenerationConfig::greedy(length)).unwrap();
    written.iter().map(|one| one.text(model).unwrap()).collect()
}

#[test]
fn teacher_forcing_and_free_decoding_agree_on_what_the_model_says() {
    let model = speller();
    let said = continuations(&*model, 6);
    assert!(said.iter().all(|text| text.len() == 6), "{said:?}");
    let requests: Vec<EditRequest> = PROMPTS.iter().zip(&said).map(|(prompt, text)| EditRequest::new(*prompt, "", text.as_str())).collect();
    // The answer's whole word has to end, so its free continuation is compared where it goes on: with all that is read.
    let long = continuations(&*model, 10);
    for (answers, (request, long)) in ask(&*model, &requests).iter().zip(requests.iter().zip(&long)) {
        assert_eq!(answers.metrics(None).rewrite_acc, [1.0], "{request:?}");
        assert_eq!(answers.free_metrics(None).rewrite_acc, [0.0], "{long} goes on behind the answer, within its word");
    }
    // With another last letter, five of six are right.
    for (request, text) in requests.iter().zip(&said) {
        let last = if text.ends_with('q') { "z" } else { "q" };
        let other = EditRequest { target_new: format!("{}{last}", &text[..5]), ..request.clone() };
        let metrics = ask(&*model, &[other])[0].metrics(None);
        assert!((metrics.rewrite_acc[0] - 5.0 / 6.0).abs() < 1e-9, "{metrics:?}");
    }
}

#[test]
fn free_decoding_finds_the_answer_that_is_said() {
    let mut model = speller();
    let name = "lm_head.weight".into();
    let silent = model.weight(&name).unwrap() * 0.0;
    model.set_weight(&name, silent).unwrap();
    // All logits are equal, so the smallest id is said, again and again: a sign of punctuation, which no word goes on from.
    let said = continuations(&*model, 3).remove(0);
    assert_eq!(said, model.tokenizer().decode(&[0, 0, 0]).unwrap());
    let requests = [said.as_str(), "Rome"].map(|answer| EditRequest::new(PROMPTS[0], "", answer));
    let scores: Vec<_> =
        ask(&*model, &requests).iter().map(|one| (one.metrics(None).rewrite_acc[0], one.free_metrics(None).rewrite_acc[0])).collect();
    assert_eq!(scores, [(1.0, 1.0), (0.0, 0.0)]);
}

#[test]
fn one_request_alone_and_among_others_is_answered_alike() {
    let model = tiny_model("t5", 3).unwrap();
    let requests: Vec<EditRequest> = PROMPTS
        .iter()
        .zip(["Welsh", "Bo Li", "nothing at all"])
        .map(|(prompt, target)| EditRequest { rephrase_prompts: vec![format!("So {prompt}")], ..EditRequest::new(*prompt, "", target) })
        .collect();
    let all = ask(&*model, &requests);
    for (index, request) in requests.iter().enumerate() {
        assert_eq!(ask(&*model, std::slice::from_ref(request)), [all[index].clone()]);
    }
}

#[test]
fn the_encoder_reads_the_prompt_and_the_decoder_the_target() {
    let model = tiny_model("t5", 3).unwrap();
    let ids = |text: &str| model.tokenizer().encode_bare(text).unwrap();
    for target in ["Rome", " Rome"] {
        let tokens = encode_with_target(&*model, "France has", target).unwrap();
        assert_eq!((tokens.prompt().ids(), tokens.source.ids()), (&ids("France has")[..], &ids("France has")[..]));
        assert_eq!((tokens.target(), tokens.row.ids()[0], tokens.start), (&ids("Rome")[..], 256, 1));
        assert_eq!((tokens.input(), tokens.predicting()), (tokens.row.prefix(4), 0..4));
        assert_eq!(tokens.longest(), 10);
        let ended = tokens.clone().ending_in(256);
        assert_eq!((ended.input().len(), ended.target().last()), (tokens.row.len(), Some(&256)));
    }
    assert!(encode_with_target(&*model, "", "Rome").is_err() && encode_with_target(&*model, "France has", " ").is_err());
    let decoder = tiny_model("gpt2", 3).unwrap();
    let tokens = encode_with_target(&*decoder, "France has", "Rome").unwrap();
    assert_eq!((tokens.source.len(), tokens.start, tokens.prompt()), (0, 10, tokens.row.prefix(10)));
    assert_eq!(tokens.target(), ids(" Rome"));
}

#[cfg(feature = "rome")]
#[test]
fn methods_for_decoder_only_models_say_so() {
    use easyedit::{Editor, EditorOptions, TextCorpora, hparams};

    let model = tiny_model("t5", 1).unwrap();
    let registry = easyedit::registry();
    let entry = registry.get("ROME").unwrap();
    let found = hparams::find(entry, &model.spec().name, model.spec()).unwrap();
    let mut editor = Editor::new(
        &Session::new().with_corpora(TextCorpora::default()),
        model,
        entry.build(&found.document).unwrap(),
        EditorOptions::default(),
    );
    let request = EditRequest::new("Ada Quill speaks", "Ada Quill", "Welsh");
    let message = editor.run(&[request], &mut |_| Ok(())).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("ROME") && message.contains("tiny-t5 is an encoder-decoder"), "{message}");
}
