use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Instant;

use easyedit_core::{CheckedRequest, EditMethod, EditRequest, Error, LanguageModel, Result, Session, nearest_name};
use easyedit_eval::{Answers, Evaluation, FreeDecoding, Metrics, PeakMemory, Record, RunInfo, Seconds, Summary};
use serde::{Deserialize, Serialize};

use crate::{EditRun, EditStore};

/// What becomes of the edits of several requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Each request is edited into the original model.
    #[default]
    Independent,
    /// Each request is edited into the model as the requests before left it.
    Sequential,
    /// All requests are one edit.
    Batch,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Independent, Self::Sequential, Self::Batch];

    /// The mode's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::Sequential => "sequential",
            Self::Batch => "batch",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|mode| mode.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let hint = nearest_name(text, Self::ALL.map(Self::name)).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
            format!("no mode is called {text:?}{hint} (independent, sequential or batch)")
        })
    }
}

/// Settings of an [`Editor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EditorOptions {
    /// What becomes of the edits of several requests.
    pub mode: Mode,
    /// Measure before and after; without it records carry empty metrics.
    pub evaluate: bool,
    /// Go on after a request that cannot be edited, with the reason in its record; otherwise the run ends with that error.
    pub keep_going: bool,
}

impl Default for EditorOptions {
    fn default() -> Self {
        Self { mode: Mode::default(), evaluate: true, keep_going: false }
    }
}

/// Runs a method over requests on a model, and measures what it did.
///
/// The model it is given stays as it is, whatever happens: edits go to a clone that shares the weights' storage.
pub struct Editor {
    session: Session,
    model: Box<dyn LanguageModel>,
    method: Box<dyn EditMethod>,
    options: EditorOptions,
}

impl Editor {
    /// An editor of `model` with `method`.
    pub fn new(session: &Session, model: Box<dyn LanguageModel>, method: Box<dyn EditMethod>, options: EditorOptions) -> Self {
        Self { session: session.clone(), model, method, options }
    }

    /// The model, unedited.
    pub fn model(&self) -> &dyn LanguageModel {
        &*self.model
    }

    /// The settings.
    pub fn options(&self) -> &EditorOptions {
        &self.options
    }

    /// Edits the requests: measures the unedited model on all of them, prepares the method, then edits and measures by the
    /// [`Mode`]. `on_record` gets each record as soon as it is complete; in sequential mode the scores after the last edit come
    /// later, in the session's records and its summary.
    ///
    /// # Errors
    ///
    /// If a request is malformed (before anything is computed), the method does not fit the model, `on_record` fails, or (unless
    /// [`keep_going`](EditorOptions::keep_going)) a request cannot be edited, naming it. Records done so far have been delivered then.
    pub fn run(&mut self, requests: &[EditRequest], on_record: &mut dyn FnMut(&Record) -> Result<()>) -> Result<EditRun> {
        let requests = CheckedRequest::all(requests.iter().cloned())?;
        self.run_into(Vec::new(), &requests, on_record)
    }

    /// As [`run`](Self::run), with a store of the caller's that gets each edit as soon as it is made, before it is evaluated. An edit under
    /// which the model cannot be evaluated is taken back.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), or if the store fails. What was put into the store stays there.
    pub fn run_into<S: EditStore>(
        &mut self,
        store: S,
        requests: &[CheckedRequest],
        on_record: &mut dyn FnMut(&Record) -> Result<()>,
    ) -> Result<EditRun<S>> {
        let started = Instant::now();
        if requests.is_empty() {
            return Err(Error::Batch("there are no requests to edit".into()));
        }
        let progress = self.session.progress();
        let mut run = Run {
            work: self.model.boxed_clone(),
            evaluation: match self.options.evaluate {
                true => Some(Evaluation::new(&*self.model, requests)?),
                false => None,
            },
            before: Vec::new(),
            requests,
            options: &self.options,
            session: &self.session,
            seconds: Seconds::default(),
            edits: store,
            at_hand: BTreeMap::new(),
            newest: None,
            records: Vec::with_capacity(requests.len()),
        };
        run.before = run.ask_all()?;
        let prepared = Instant::now();
        self.method.prepare(&*self.model, &self.session)?;
        run.seconds.prepare = prepared.elapsed().as_secs_f64();
        progress.begin("edit", Some(requests.len() as u64));
        let done = match self.options.mode {
            Mode::Independent => run.one_by_one(&mut *self.method, true, on_record),
            Mode::Sequential => run.one_by_one(&mut *self.method, false, on_record).and_then(|()| run.measure_again()),
            Mode::Batch => run.all_at_once(&mut *self.method, on_record),
        };
        progress.end();
        done?;
        let Run { mut seconds, edits, mut at_hand, newest, work, records, .. } = run;
        seconds.total = started.elapsed().as_secs_f64();
        let spec = self.model.spec();
        let info = RunInfo {
            model: spec.name.clone(),
            family: spec.family.clone(),
            method: self.method.name().to_owned(),
            mode: self.options.mode.to_string(),
            seed: self.session.seed(),
            hparams: self.method.hparams(),
        };
        let mut summary = Summary::of(info, &records, seconds);
        summary.warn_of_unmoved(&records, self.method.strength_hparams());
        for warning in &summary.warnings {
            tracing::warn!("{warning}");
        }
        let last = if self.options.mode == Mode::Independent { newest } else { Some(work) };
        if let (Some(model), Some(index)) = (last, edits.len().checked_sub(1)) {
            at_hand.insert(index, model);
        }
        Ok(EditRun::new(self.model.boxed_clone(), self.options.mode, edits, at_hand, records, summary))
    }
}

/// A run under way.
struct Run<'a, S> {
    work: Box<dyn LanguageModel>,
    evaluation: Option<Evaluation>,
    /// Answers of the unedited model; empty without evaluation.
    before: Vec<Answers>,
    requests: &'a [CheckedRequest],
    options: &'a EditorOptions,
    session: &'a Session,
    seconds: Seconds,
    edits: S,
    /// The model as edit `index` left it, of the edits that lay something over it: it cannot be had from the weights alone.
    at_hand: BTreeMap<usize, Box<dyn LanguageModel>>,
    /// The model as the newest edit left it; `None` while the next one is computed, or once that has failed.
    newest: Option<Box<dyn LanguageModel>>,
    records: Vec<Record>,
}

impl<S: EditStore> Run<'_, S> {
    fn one_by_one(&mut self, method: &mut dyn EditMethod, restore: bool, on_record: &mut dyn FnMut(&Record) -> Result<()>) -> Result<()> {
        let requests = self.requests;
        for (index, request) in requests.iter().enumerate() {
            let mut record = self.blank(index, request);
            match self.edit(method, std::slice::from_ref(request), &mut record) {
                Ok(before) => {
                    let asked = self.ask_some(&[index]);
                    if restore || asked.is_err() {
                        self.work = before;
                    }
                    match asked {
                        Ok(after) => {
                            if let Some(after) = after.first() {
                                (record.post, record.free_decoding.post) = scores(after, self.before.get(index));
                            }
                        }
                        // The edit is made, and stays; only its scores are missing.
                        Err(Error::Cancelled) => return Err(Error::Cancelled),
                        // An edit under which the model cannot be asked any more (its logits overflow) is none.
                        Err(error) => {
                            self.edits.pop()?;
                            self.at_hand.remove(&self.edits.len());
                            self.newest = None;
                            self.failed(&mut record, request, error)?;
                        }
                    }
                }
                Err(error) => self.failed(&mut record, request, error)?,
            }
            on_record(&record)?;
            self.records.push(record);
            self.session.progress().step(1)?;
        }
        Ok(())
    }

    fn all_at_once(&mut self, method: &mut dyn EditMethod, on_record: &mut dyn FnMut(&Record) -> Result<()>) -> Result<()> {
        let requests = self.requests;
        let Some(first) = requests.first() else { return Ok(()) };
        let mut shared = self.blank(0, first);
        self.edit(method, requests, &mut shared)?;
        let after = self.ask_all()?;
        for (index, request) in requests.iter().enumerate() {
            let mut record = Record { time: shared.time, peak_memory_mb: shared.peak_memory_mb, ..self.blank(index, request) };
            if let Some(after) = after.get(index) {
                (record.post, record.free_decoding.post) = scores(after, self.before.get(index));
            }
            on_record(&record)?;
            self.records.push(record);
            self.session.progress().step(1)?;
        }
        Ok(())
    }

    /// Scores every record again under the model that all edits have made.
    fn measure_again(&mut self) -> Result<()> {
        let after = self.ask_all()?;
        for ((record, after), before) in self.records.iter_mut().zip(&after).zip(&self.before) {
            if record.error.is_some() {
                continue;
            }
            let (forced, free) = scores(after, Some(before));
            record.post_final = Some(forced);
            record.free_decoding.post_final = Some(free);
        }
        Ok(())
    }

    /// Computes an edit and gives it to the working model; time and memory go into `record`. Gives the model as it was before.
    fn edit(&mut self, method: &mut dyn EditMethod, requests: &[CheckedRequest], record: &mut Record) -> Result<Box<dyn LanguageModel>> {
        // Its changed weights are not kept while the next ones are computed.
        self.newest = None;
        let own_peak = PeakMemory::reset();
        if !own_peak {
            tracing::debug!("the system does not let the peak memory be reset: it is that of the whole run so far");
        }
        let started = Instant::now();
        let edit = method.edit(&*self.work, requests, self.session);
        record.time = started.elapsed().as_secs_f64();
        record.peak_memory_mb = PeakMemory::megabytes();
        self.seconds.edit += record.time;
        let mut edit = edit?;
        // A clone shares what an edit leaves as it is, and is the model as it was, bit for bit.
        let mut edited = self.work.boxed_clone();
        let _applied = edit.apply(&mut *edited)?;
        edit.note_result(&*edited)?;
        if edit.overlay.is_some() {
            edited = method.lay_over(&edit, edited)?;
            self.at_hand.insert(self.edits.len(), edited.boxed_clone());
        }
        self.edits.push(edit)?;
        self.newest = Some(edited.boxed_clone());
        Ok(std::mem::replace(&mut self.work, edited))
    }

    fn failed(&self, record: &mut Record, request: &CheckedRequest, error: Error) -> Result<()> {
        if self.session.is_cancelled() || matches!(error, Error::Cancelled) {
            return Err(Error::Cancelled);
        }
        let error = match error {
            named @ Error::Request { .. } => named,
            other => request.error(other.to_string()),
        };
        if !self.options.keep_going {
            return Err(error);
        }
        tracing::warn!("{error}");
        record.error = Some(error.to_string());
        Ok(())
    }

    fn blank(&self, index: usize, request: &CheckedRequest) -> Record {
        let (pre, free) = self.before.get(index).map(|before| scores(before, None)).unwrap_or_default();
        Record {
            pre,
            case_id: request.case_id(),
            requested_rewrite: request.written().clone(),
            time: 0.0,
            post: Metrics::default(),
            post_final: None,
            free_decoding: FreeDecoding { pre: free, ..FreeDecoding::default() },
            peak_memory_mb: None,
            seed: self.session.seed(),
            error: None,
        }
    }

    fn ask_all(&mut self) -> Result<Vec<Answers>> {
        let all: Vec<usize> = (0..self.requests.len()).collect();
        self.ask_some(&all)
    }

    fn ask_some(&mut self, indices: &[usize]) -> Result<Vec<Answers>> {
        let started = Instant::now();
        let answers = match &self.evaluation {
            Some(evaluation) => evaluation.ask_some(&*self.work, indices, self.session.progress())?,
            None => Vec::new(),
        };
        self.seconds.evaluate += started.elapsed().as_secs_f64();
        Ok(answers)
    }
}

/// Teacher-forced and free scores.
fn scores(answers: &Answers, before: Option<&Answers>) -> (Metrics, Metrics) {
    (answers.metrics(before), answers.free_metrics(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_by_name() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().to_uppercase().parse::<Mode>(), Ok(mode));
        }
        assert!("sequental".parse::<Mode>().unwrap_err().contains("did you mean sequential"));
    }
}
