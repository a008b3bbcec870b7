//! An edit of a model of the tiny world, applied to a checkpoint and taken back out of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyedit::models::tiny::convert_checkpoint;
use easyedit::models::{Checkpoint, Restored, SINGLE_FILE, Way, WeightType, revert, save_checkpoint, save_reverted_into};
use easyedit::{
    CheckedRequest, Edit, EditRequest, Matrix, OutputFolder, ParamName, Session, Silent, TextCorpora, apply_all, device, hparams,
};
use easyedit_tiny_world as tiny_world;
use tempfile::TempDir;

/// Result with any error.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Folders with the models in every type, and what methods keep between edits.
pub(crate) struct Workshop {
    folder: TempDir,
    cache: PathBuf,
    corpora: TextCorpora,
}

/// What became of a round trip.
pub(crate) enum Outcome {
    /// The method cannot edit this fact in this model.
    NotEdited(String),
    /// The bytes are those from before; the ways in which weights come back without the base.
    Same(Vec<Way>),
    /// They are not, or the program refuses its own checkpoint.
    Different(String),
}

impl Workshop {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let cache = folder.path().join("cache");
        Ok(Self { folder, cache, corpora: TextCorpora { corpus: Some(tiny_world::folder().join("corpus.txt")) } })
    }

    /// The model `name` in a type.
    fn model(&self, name: &str, kind: WeightType) -> Result<PathBuf> {
        let source = tiny_world::model_folder(name)?;
        let folder = self.folder.path().join(kind.name()).join(source.file_name().unwrap_or_default());
        if !folder.exists() {
            convert_checkpoint(&source, &folder, kind)?;
        }
        Ok(folder)
    }

    /// Edits the facts one on top of the other, applies the edits to the checkpoint and takes them back.
    pub(crate) fn there_and_back(&self, name: &str, kind: WeightType, method: &str, requests: &[EditRequest]) -> Result<Outcome> {
        let base = Checkpoint::open(&self.model(name, kind)?)?;
        let edits = match self.edits(&base, method, requests) {
            Ok(edits) => edits,
            Err(error) => return Ok(Outcome::NotEdited(error.to_string())),
        };
        match self.compare(&base, &edits) {
            Ok(Some(ways)) => Ok(Outcome::Same(ways)),
            Ok(None) => Ok(Outcome::Different("other bytes".into())),
            Err(error) => Ok(Outcome::Different(error.to_string())),
        }
    }

    fn edits(&self, base: &Checkpoint, method: &str, requests: &[EditRequest]) -> Result<Vec<Edit>> {
        let mut model = base.load(&device::select("cpu")?)?;
        let registry = easyedit::registry();
        let entry = registry.get(method)?;
        let found = hparams::find(entry, &model.spec().name, model.spec())?;
        let mut method = entry.build(&found.document)?;
        let context = Session::new().with_corpora(self.corpora.clone()).with_cache(&self.cache);
        method.prepare(&*model, &context)?;
        let mut edits = Vec::new();
        for request in requests {
            let edit = method.edit(&*model, &[CheckedRequest::new(request.clone())?], &context)?;
            let _applied = edit.apply(&mut *model)?;
            edits.push(edit);
        }
        Ok(edits)
    }

    /// `None` if the bytes differ.
    fn compare(&self, base: &Checkpoint, edits: &[Edit]) -> Result<Option<Vec<Way>>> {
        let place = tempfile::tempdir_in(self.folder.path())?;
        // Through files, as the commands read them.
        let mut read = Vec::new();
        for (number, edit) in edits.iter().enumerate() {
            let path = place.path().join(format!("{number}.edit.safetensors"));
            edit.save(&path)?;
            read.push(Edit::load(&path)?);
        }
        let mut model = base.load(&device::select("cpu")?)?;
        let _applied = apply_all(&read, &mut *model)?;
        let mut changed: BTreeMap<ParamName, Matrix> = BTreeMap::new();
        for name in read.iter().flat_map(|edit| edit.deltas.keys()) {
            changed.insert(name.clone(), Matrix::from_tensor(&model.weight(name)?)?);
        }
        let edited_folder = place.path().join("edited");
        save_checkpoint(base, &changed, &read, &edited_folder)?;
        let edited = Checkpoint::open(&edited_folder)?;
        let near = revert(&edited, None, &read)?;
        let reverted = revert(&edited, Some(base), &read)?;
        let folder = OutputFolder::claim(&place.path().join("back"))?;
        save_reverted_into(&edited, &reverted, &read, &folder, &Silent)?;
        let weights = |folder: &Path| std::fs::read(folder.join(SINGLE_FILE));
        let is_same = weights(folder.path())? == weights(base.path())?;
        Ok(is_same.then(|| near.restored.values().map(|Restored { way, .. }| *way).collect()))
    }
}
