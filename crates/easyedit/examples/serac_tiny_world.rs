//! Trains and measures.
use std::path::{Path, PathBuf};
use easyedit::{CheckedRequest, EditRequest, HparamsDocument, Session, TextCorpora, EditorOptions, Editor, Mode, EditMethod};
use easyedit::serac::{SeracHparams, SeracLearner, Serac};
use easyedit_trainer::Trainer;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (yaml, out, set) = (&args[1], PathBuf::from(&args[2]), &args[3]);
    let hparams: SeracHparams = HparamsDocument::load(Path::new(yaml)).unwrap().read().unwrap();
    let session = Session::new().with_corpora(TextCorpora::default());
    let model = easyedit::open(&hparams.model_name).unwrap();
    let read = |name: &str| -> Vec<EditRequest> { serde_json::from_slice(&std::fs::read(format!("data/tiny-world/learning/{name}.json")).unwrap()).unwrap() };
    let (train, val, test) = (read("train"), read("val"), read(set));
    let started = std::time::Instant::now();
    let mut learner = SeracLearner::new(hparams.clone(), model.model(), &CheckedRequest::all(train).unwrap(), &CheckedRequest::all(val).unwrap(), &session).unwrap();
    let outcome = Trainer::new(&mut learner, hparams.training_config().unwrap(), &out).unwrap().run(&session, false).unwrap();
    println!("{:?} in {:?}", outcome, started.elapsed());
    let method: Box<dyn EditMethod> = Box::new(Serac::with_networks(SeracHparams { archive: Some("x".into()), ..hparams }, learner.networks().clone()).unwrap());
    for mode in [Mode::Independent] {
        let mut editor = Editor::new(&session, model.model().boxed_clone(), Box::new(Serac::with_networks(Default::default(), learner.networks().clone()).unwrap()), EditorOptions { mode, ..EditorOptions::default() });
        let run = editor.run(&test, &mut |_| Ok(())).unwrap();
        println!("{}", serde_json::to_string_pretty(&run.summary).unwrap());
    }
    let _ = method;
}
