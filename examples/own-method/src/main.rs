//! A method of one's own beside the built-in ones, run over facts by the `Editor`: `own-method FOLDER REQUESTS`.

mod lens;

use easyedit::data::read_requests;
use easyedit::models::Checkpoint;
use easyedit::{Editor, EditorOptions, Session, TextCorpora, device, hparams};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [folder, requests] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "give a model's folder and a file of facts")?;
    let model = Checkpoint::open(folder.as_ref())?.load(&device::select("cpu")?)?;
    let mut requests = read_requests(requests.as_ref())?;
    requests.truncate(5);

    let mut registry = easyedit::registry();
    registry.register::<lens::Lens>();
    let entry = registry.get("LENS")?;
    let found = hparams::find(entry, &model.spec().name, model.spec())?;
    let mut editor =
        Editor::new(&Session::new().with_corpora(TextCorpora::default()), model, entry.build(&found.document)?, EditorOptions::default());
    let session = editor.run(&requests, &mut |record| {
        let prompt = &record.requested_rewrite;
        println!("{} -> {}: {:?} -> {:?}", prompt.filled_prompt(), prompt.target_new, record.pre.rewrite_acc, record.post.rewrite_acc);
        Ok(())
    })?;
    println!("{}", serde_json::to_string_pretty(&session.summary.mean_metrics)?);
    Ok(())
}
