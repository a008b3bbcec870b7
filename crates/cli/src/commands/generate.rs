//! `easyedit generate`

use anyhow::Result;
use easyedit::tokens::encode_prompt;
use easyedit::{GenerationConfig, Sampling, TokenRow, generate_while};
use serde_json::{Value, json};

use super::Context;
use super::edit_files::{check_not_applied, load_edits};
use crate::args::GenerateArguments;
use crate::output::style;

pub(super) fn run(context: &Context, arguments: &GenerateArguments) -> Result<()> {
    context.check_device()?;
    let edits = load_edits(&arguments.edit)?;
    let checkpoint = context.open(&arguments.model.model)?;
    check_not_applied(&checkpoint, &edits)?;
    let model = easyedit::registry().apply_in(context.session(), &edits, context.load(&checkpoint)?)?;

    let prompts: easyedit::Result<Vec<TokenRow>> = arguments.prompt.iter().map(|text| encode_prompt(&*model, text)).collect();
    let config = GenerationConfig {
        max_new_tokens: arguments.max_new_tokens,
        sampling: sampling(arguments),
        seed: context.common.seed,
        ignore_eos: false,
    };
    let generated = generate_while(&*model, &prompts?, &config, context.progress())?;
    let texts: easyedit::Result<Vec<String>> = generated.iter().map(|one| one.text(&*model)).collect();
    let texts = texts?;
    let pairs = || arguments.prompt.iter().zip(&texts);
    let value: Vec<Value> = pairs().map(|(prompt, text)| json!({ "prompt": prompt, "continuation": text })).collect();
    context.output.print(&value, || {
        let shown: Vec<String> = pairs().map(|(prompt, text)| format!("{}{text}", style(prompt).dim())).collect();
        shown.join("\n\n")
    })
}

/// Greedy unless a flag asks for drawing.
fn sampling(arguments: &GenerateArguments) -> Sampling {
    if arguments.temperature.is_none() && arguments.top_k.is_none() && arguments.top_p.is_none() {
        return Sampling::Greedy;
    }
    Sampling::Random {
        temperature: arguments.temperature.unwrap_or(1.0),
        top_k: arguments.top_k.and_then(|k| usize::try_from(k).ok()),
        top_p: arguments.top_p,
    }
}
