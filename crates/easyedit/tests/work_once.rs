//! One request is checked once, its edit applied once, and each weight hashed once, from the request to the saved checkpoint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use easyedit::models::{Checkpoint, save_checkpoint};
use easyedit::{EditRequest, Editor, EditorOptions, Session, TextCorpora, changed_weights, device, hparams};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Counts what the libraries report of their work, by message.
#[derive(Default)]
struct Counter;

static COUNTS: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "easyedit::work"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        *COUNTS.lock().unwrap().entry(message.0).or_default() += 1;
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn counts() -> BTreeMap<String, usize> {
    std::mem::take(&mut COUNTS.lock().unwrap())
}

#[test]
fn each_step_of_an_edit_is_done_once() {
    tracing::subscriber::set_global_default(Counter).unwrap();
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-world");
    let source = Checkpoint::open(&data.join("models/tiny-world-llama")).unwrap();
    let model = source.load(&device::select("cpu").unwrap()).unwrap();
    let request: EditRequest = easyedit::data::read_requests(&data.join("requests.json")).unwrap().remove(0);
    let registry = easyedit::registry();
    for method in ["ROME", "MEMIT"] {
        let entry = registry.get(method).unwrap();
        let found = hparams::find(entry, &model.spec().name, model.spec()).unwrap();
        let method = entry.build(&found.document).unwrap();
        let mut editor = Editor::new(
            &Session::new().with_corpora(TextCorpora { corpus: Some(data.join("corpus.txt")) }),
            model.boxed_clone(),
            method,
            EditorOptions::default(),
        );
        // Statistics and templates identify the model, once for all edits.
        editor.run(std::slice::from_ref(&request), &mut |_| Ok(())).unwrap();
        counts();

        let session = editor.run(std::slice::from_ref(&request), &mut |_| Ok(())).unwrap();
        let edited = session.edited().unwrap();
        let edit = session.edits[0].clone();
        assert!(!edit.deltas.is_empty());
        let changed = changed_weights(&*edited, std::slice::from_ref(&edit)).unwrap();
        let of_edit = counts();
        assert_eq!(of_edit.get("check request"), Some(&1), "{of_edit:?}");
        assert_eq!(of_edit.get("apply edits"), Some(&1), "{of_edit:?}");
        // The weights from before are known from the first run: what remains are those with the edit.
        assert_eq!(of_edit.get("fingerprint"), Some(&edit.deltas.len()), "{of_edit:?}");

        let out = tempfile::tempdir().unwrap();
        save_checkpoint(&source, &changed, std::slice::from_ref(&edit), &out.path().join("edited")).unwrap();
        let of_saving = counts();
        assert_eq!(of_saving.get("apply edits"), None, "{of_saving:?}");
        // The tensors in the files, before and after.
        assert_eq!(of_saving.get("fingerprint"), Some(&(2 * edit.deltas.len())), "{of_saving:?}");
    }
}
