//! `easyedit forget`: takes facts out of an edit file.

use anyhow::Result;
use easyedit::{Edit, HparamsDocument};
use serde_json::json;

use super::Context;
use super::outputs::check_outputs;
use crate::args::ForgetArguments;
use crate::failure::UsageError;
use crate::output::visible_path;

pub(super) fn run(context: &Context, arguments: &ForgetArguments) -> Result<()> {
    check_outputs([("--out", Some(&arguments.out))], [arguments.file.as_path()])?;
    let file = arguments.file.display();
    let edit = Edit::load(&arguments.file)?;
    let cases: Vec<usize> = edit.requests.iter().map(|request| request.case_id).collect();
    if let Some(unknown) = arguments.case_id.iter().find(|case_id| !cases.contains(case_id)) {
        return Err(UsageError(format!("--case-id {unknown}: {file} holds no such fact, but those of {cases:?}")).into());
    }
    let forgotten: Vec<usize> = (0..cases.len()).filter(|place| arguments.case_id.contains(&cases[*place])).collect();
    if forgotten.len() == cases.len() {
        return Err(UsageError(format!("nothing of {file} would be left; leave the file out instead")).into());
    }
    let document = HparamsDocument::from_json(&edit.hparams, &format!("the edit of {}", edit.method))?;
    let method = easyedit::registry().get(&edit.method)?.build(&document)?;
    let fewer = method.forget(&edit, &forgotten)?;
    fewer.save(&arguments.out)?;
    let value = json!({
        "edit": visible_path(&arguments.out),
        "forgotten": forgotten.iter().map(|place| &edit.requests[*place]).collect::<Vec<_>>(),
        "requests": fewer.requests,
    });
    context.output.print(&value, || {
        let mut text = String::new();
        for request in forgotten.iter().map(|place| &edit.requests[*place]) {
            text.push_str(&format!("forgotten  {}: {} → {}\n", request.case_id, request.filled_prompt(), request.target_new));
        }
        text + &format!("edit       {} ({} facts)\n", arguments.out.display(), fewer.requests.len())
    })
}
