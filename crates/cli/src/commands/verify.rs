//! `easyedit verify`

use anyhow::{Result, bail};
use easyedit::models::{Verification, is_text_encoder, verify, verify_text_encoder};
use serde_json::json;

use super::{Context, check_file, describe};
use crate::args::VerifyArguments;
use crate::output::{Align, Table};

pub(super) fn run(context: &Context, arguments: &VerifyArguments) -> Result<()> {
    context.check_device()?;
    check_file("--golden", &arguments.golden)?;
    let checkpoint = context.open(&arguments.model.model)?;
    let (golden, tolerance) = (&arguments.golden, arguments.tolerance as f32);
    let (verification, description) = if is_text_encoder(checkpoint.model_type()) {
        let device = easyedit::device::select(&context.common.device)?;
        let model = checkpoint.load_text_encoder(&device)?;
        let width = model.d_model();
        let description = format!("{} ({}, width {width}) on {}", model.name(), checkpoint.model_type(), context.common.device);
        (verify_text_encoder(&model, golden, tolerance)?, description)
    } else {
        let model = context.load(&checkpoint)?;
        (verify(&*model, golden, tolerance)?, describe(&*model, &context.common.device))
    };
    let value = json!({
        "model": checkpoint.name(), "family": checkpoint.model_type(), "golden": golden, "agrees": verification.agrees(),
        "verification": verification,
    });
    context.output.print(&value, || text(&description, &verification))?;
    if let Some(worst) = verification.worst().filter(|worst| !worst.agrees) {
        bail!(
            "{} differs from {} by up to {:.1e}, more than {:.1e} (--tolerance)",
            worst.name,
            arguments.golden.display(),
            worst.largest_difference,
            verification.tolerance
        );
    }
    Ok(())
}

fn text(model: &str, verification: &Verification) -> String {
    let Verification { rows, tokens, tolerance, tensors, not_compared } = verification;
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("numbers", Align::Right),
        ("largest difference", Align::Right),
        ("row, token", Align::Right),
        ("", Align::Left),
    ]);
    for tensor in tensors {
        let [row, token] = tensor.at;
        table.row([
            tensor.name.clone(),
            tensor.compared.to_string(),
            format!("{:.1e}", tensor.largest_difference),
            format!("{row}, {token}"),
            if tensor.agrees { "agrees" } else { "DIFFERS" }.to_owned(),
        ]);
    }
    let left_out: String = not_compared.iter().map(|left| format!("not compared: {} ({})\n", left.name, left.reason)).collect();
    format!("{model}\n{tokens} tokens in {rows} row(s), tolerance {tolerance:.1e}\n\n{}{left_out}", table.render())
}
